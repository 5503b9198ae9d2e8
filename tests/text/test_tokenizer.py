"""Normalisers on every script, and the character tokenizer against transformers'."""

import json
import unicodedata

import pytest
import transformers

from speechssl.core.errors import InputError
from speechssl.data.manifest import read_manifest
from speechssl.text.tokenizer import CharTokenizer, basic, normalise
from tests.conftest import DATA

SENTENCES = {
    "english": ("Don't — “stop”, it's 5 o’clock!", "don't stop it's 5 o'clock"),
    "decomposed": ("cafe\u0301 NAI\u0308VE", "café naïve"),
    "cyrillic": ("Привет, мир! Ёлка.", "привет мир ёлка"),
    "ukrainian": ("Ім\u02bcя п\u2019ять", "ім'я п'ять"),
    "chinese": ("你好,世界。", "你好 世界"),
    "hindi": ("नमस्ते, दुनिया!", "नमस्ते दुनिया"),
    "persian": ("می\u200cخواهم", "میخواهم"),
    "arabic": ("مرحبا\u200f، بالعالم؟", "مرحبا بالعالم"),
    "soft hyphen": ("Donau\u00addampf\ufeff", "donaudampf"),
    "full width": ("ＡＢＣ　１２３", "abc 123"),
    "quotes": ("'tis the dogs' 'n' all '", "tis the dogs n all"),
    "nothing": (" … — ! ", ""),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_every_script_keeps_its_words(name):
    text, expected = SENTENCES[name]
    assert basic(text) == unicodedata.normalize("NFC", expected)


@pytest.mark.parametrize("name", SENTENCES)
def test_normalising_twice_changes_nothing_and_composition_does_not_matter(name):
    text = SENTENCES[name][0]
    for normaliser in ("basic", "upper"):
        once = normalise(text, normaliser)
        assert normalise(once, normaliser) == once
        for form in ("NFC", "NFD"):
            assert normalise(unicodedata.normalize(form, text), normaliser) == once


def test_combining_marks_stay_with_their_letters():
    word = "हिन्दी"
    assert [c for c in basic(word) if unicodedata.category(c).startswith("M")] == [
        c for c in word if unicodedata.category(c).startswith("M")
    ]


def test_an_unknown_normaliser_names_those_there_are():
    with pytest.raises(InputError, match="no normaliser 'bsic'; choose one of none, basic, upper"):
        normalise("x", "bsic")


@pytest.fixture(scope="module")
def transcripts() -> list[str]:
    """All real transcripts of two languages, normalised."""
    files = (DATA / "librivox.tsv", DATA / "librispeech_test.tsv", DATA / "kerstin.tsv")
    return [basic(text) for file in files for text in read_manifest(file).column("text")]


def test_decoding_undoes_encoding(transcripts):
    tokenizer = CharTokenizer.build(transcripts)
    for text in transcripts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_transformers_reads_the_same_vocabulary(transcripts, tmp_path):
    tokenizer = CharTokenizer.build(transcripts)
    tokenizer.save(tmp_path)
    theirs = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    for text in transcripts[:10]:
        ids = tokenizer.encode(text)
        assert theirs(text).input_ids == ids
        assert theirs.decode([i for x in ids for i in (x, x, 0)]) == text
    assert CharTokenizer.load(tmp_path).vocab == tokenizer.vocab == CharTokenizer.load(tmp_path / "vocab.json").vocab


def test_a_bar_in_a_text_is_a_space_and_takes_no_second_id():
    tokenizer = CharTokenizer.build(["a|b c"])
    assert sorted(tokenizer.vocab.values()) == list(range(len(tokenizer)))
    assert tokenizer.encode("a|b") == tokenizer.encode("a b")


def test_a_character_outside_the_vocabulary_is_told_with_its_text():
    with pytest.raises(
        InputError, match=r"the character 'ï' of the transcript 'naïve' is not in the vocabulary; add it"
    ):
        CharTokenizer.build(["nave"]).encode("naïve")


@pytest.mark.parametrize(
    "content, complaint",
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("[1]", "maps characters to ids"),
        ('{"<pad>": "x"}', "invalid literal"),
        ('{"a": 0}', "must give <pad> an id"),
        ("{}", "must give <pad> an id"),
        ('{"<pad>": 0, "a": 1, "b": 1}', "same id"),
        ('{"<pad>": 0, "a": -1}', "negative"),
        ('{"<pad>": 0, "a": null}', "maps characters to ids"),
        (b"\xff\xfe", "utf-8"),
    ],
    ids=str,
)
def test_files_that_are_no_vocabulary(content, complaint, tmp_path):
    path = tmp_path / "vocab.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=complaint) as error:
        CharTokenizer.load(path)
    assert "vocab.json" in str(error.value)


def test_characters_are_written_as_they_are(tmp_path):
    CharTokenizer.build(["привет 你好 नि"]).save(tmp_path)
    text = (tmp_path / "vocab.json").read_text(encoding="utf-8")
    assert "п" in text and "你" in text and "\u093f" in text
    assert json.loads(text)["|"] == 2
