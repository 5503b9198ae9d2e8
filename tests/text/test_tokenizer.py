"""The character tokenizer against transformers'."""

import json

import pytest
import transformers

from speechssl.core.errors import InputError
from speechssl.data.tables import read_manifest
from speechssl.text.normalise import basic
from speechssl.text.tokenizer import CharTokenizer
from tests.conftest import DATA


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


def test_a_character_outside_the_vocabulary_is_reported_with_its_text():
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
        ('{"a": 0}', "has no <pad>, the CTC blank"),
        ("{}", "has no <pad>, the CTC blank"),
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
