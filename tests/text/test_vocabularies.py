"""Other people's vocabularies: what transformers' tokenizers make of ids, ours makes too."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer

from speechssl.core.errors import InputError
from speechssl.models import families
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.text.decode import best_path, greedy
from speechssl.text.normalise import basic
from speechssl.text.tokenizer import PHONES, CharTokenizer
from tests.conftest import tiny

GEOMETRY = Wav2Vec2Config().geometry
VOCABULARIES = {  # name: (symbols in the order of their ids, what the tokenizer is told)
    "blank last": ("a b | [UNK] [PAD]", {"unk_token": "[UNK]", "pad_token": "[PAD]"}),
    "blank between": ("a [PAD] b | <unk>", {"pad_token": "[PAD]"}),
    "both names of the blank": ("<pad> a b | [PAD] <unk>", {"pad_token": "[PAD]"}),
    "sentences in the vocabulary": ("<s> <pad> </s> <unk> | a b", {}),
    "other names of sentences": ("[BOS] <pad> [EOS] <unk> | a b", {"bos_token": "[BOS]", "eos_token": "[EOS]"}),
    "capitals printed small": ("<pad> <unk> | A B Ç", {"do_lower_case": True}),
    "no delimiter": ("<pad> <unk> 你 好 吗", {"word_delimiter_token": None}),
    "delimiter unused": ("<pad> <unk> 你 好 吗 |", {"replace_word_delimiter_char": ""}),
    "delimiter printed as a dash": ("<pad> <unk> | a b", {"replace_word_delimiter_char": "-"}),
    "another delimiter beside a bar": ("<pad> <unk> ▁ a b |", {"word_delimiter_token": "▁"}),
    "symbols of several letters": ("<pad> <unk> | sch s c h ei a", {}),
    "symbols in brackets": ("<pad> <unk> | a b <noise>", {}),
    "a special symbol": ("<pad> <unk> | a b [NOISE]", {"additional_special_tokens": ["[NOISE]"]}),
    "nothing but letters": ("a b", {}),
    "phones": ("<s> <pad> </s> <unk> n tʃ ə oʊ iː", {"do_phonemize": False}),
    "phones with words": ("<pad> <unk> n tʃ | ə", {"do_phonemize": False, "word_delimiter_token": "|"}),
}


def theirs_and_ours(name, folder):
    """A tokenizer of transformers, and ours read from the folder that it wrote."""
    symbols, settings = VOCABULARIES[name]
    (folder / "in.json").write_text(json.dumps({s: i for i, s in enumerate(symbols.split())}), encoding="utf-8")
    kind = Wav2Vec2PhonemeCTCTokenizer if "phones" in name else Wav2Vec2CTCTokenizer
    theirs = kind(str(folder / "in.json"), **settings)
    theirs.save_pretrained(folder / "out")
    return theirs, CharTokenizer.load(folder / "out")


@pytest.mark.parametrize("name", VOCABULARIES)
def test_decoding_equals_transformers(name, tmp_path):
    """Special tokens are left out, as with skip_special_tokens; but theirs then loses the blanks too, so they are cut from the
    text. Runs of delimiters print as one."""
    theirs, ours = theirs_and_ours(name, tmp_path)
    ours.save(tmp_path)
    again = CharTokenizer.load(tmp_path)
    assert ours.blank == again.blank == theirs.pad_token_id and len(ours) == len(again)
    special = {*theirs.all_special_tokens, "<s>", "</s>", "<pad>"} - {
        theirs.pad_token,
        getattr(theirs, "word_delimiter_token", None),
    }
    barred = {i for i in range(len(theirs)) if theirs.convert_ids_to_tokens(i) in special}
    rng = np.random.default_rng(1)
    for _ in range(40):
        ids_T = torch.from_numpy(rng.choice([i for i in range(len(theirs)) if i not in barred], 60).repeat(2))
        dash = theirs.replace_word_delimiter_char if "phones" not in name else " "
        expected = theirs.decode(ids_T)
        expected = dash.join(filter(None, expected.split(dash))) if dash else expected
        assert best_path(ids_T, ours) == greedy_text(ids_T, ours) == best_path(ids_T, again) == expected
        with_special = torch.from_numpy(rng.choice(len(theirs), 60))
        assert not any(token in best_path(with_special, ours) for token in special)


@pytest.mark.parametrize("symbols, encoded", [("<pad> <unk> | a b ç", "abç"), ("<pad> <unk> | A B Ç", "ABÇ")])
def test_lower_case_that_a_vocabulary_has_already(symbols, encoded, tmp_path):
    """do_lower_case stands in many a file whose letters are small; the capitals that it is about are not there."""
    (tmp_path / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate(symbols.split())}), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    ours = CharTokenizer.load(tmp_path)
    assert ours.encode("abç") == [ours.vocab[letter] for letter in encoded]
    assert ours.lacking(["ab ç"]) == set() and ours.decode(ours.encode("ab ç")) == "ab ç"
    ours.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["do_lower_case"] is True


def test_a_blank_under_another_name_is_named_in_the_settings(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "|": 1, "[PAD]": 2}')
    with pytest.raises(InputError, match="name the blank that it has as pad_token"):
        CharTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    assert CharTokenizer.load(tmp_path).blank == 2


def test_sentences_without_an_output(tmp_path):
    """get_vocab() of transformers counts <s> and </s>, for which a model with an output for each letter has none."""
    vocab = {"<pad>": 0, "|": 1, "a": 2, "<s>": 3, "</s>": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    assert CharTokenizer.load(tmp_path, outputs=3).vocab == {"<pad>": 0, "|": 1, "a": 2}
    assert CharTokenizer.load(tmp_path, outputs=5).vocab == vocab
    (tmp_path / "vocab.json").write_text(json.dumps(vocab | {"b": 5}))
    assert len(CharTokenizer.load(tmp_path, outputs=3)) == 6, "a letter without an output is an error of the caller"


def test_files_with_a_byte_order_mark(tmp_path):
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "a": 1}', encoding="utf-8-sig")
    (tmp_path / "tokenizer_config.json").write_text('{"word_delimiter_token": null}', encoding="utf-8-sig")
    assert CharTokenizer.load(tmp_path).encode("a") == [1]


def greedy_text(ids_T, tokenizer):
    """The text of the transcript with times."""
    return greedy(torch.nn.functional.one_hot(ids_T, len(tokenizer)).float().log(), tokenizer, GEOMETRY).text


@pytest.mark.parametrize(
    "name", sorted(set(VOCABULARIES) - {"delimiter unused", "no delimiter", "symbols of several letters"})
)
def test_encoding_equals_transformers(name, tmp_path):
    theirs, ours = theirs_and_ours(name, tmp_path)
    text = {"phones": "n ə tʃ", "phones with words": "n ə | tʃ"}.get(name, "ab ba")
    if "phones" not in name and ours.delimiter is None:
        text = "abba"
    assert ours.encode(text) == theirs(text).input_ids


def test_the_longest_symbol_is_taken():
    tokenizer = CharTokenizer({s: i for i, s in enumerate(["<pad>", "|", "s", "sch", "c", "h", "ei", "a"])})
    assert [tokenizer.tokens[i] for i in tokenizer.encode("schaei sch")] == ["sch", "a", "ei", "|", "sch"]
    with pytest.raises(
        InputError, match=r"^the character 'x' of the transcript 'schx' is not in the vocabulary; add it"
    ):
        tokenizer.encode("schx")
    assert tokenizer.lacking(["schx a"]) == {"x"}


def test_a_phone_outside_is_named_whole(tmp_path):
    _, ours = theirs_and_ours("phones", tmp_path)
    with pytest.raises(InputError, match=r"^the phone 'ɔɪ' of the transcript 'n ɔɪ'"):
        ours.encode("n ɔɪ")


def test_letters_that_the_vocabulary_has_only_in_parts():
    tokenizer = CharTokenizer({s: i for i, s in enumerate(["<pad>", "|", "e", "\u0301", "é̱"])})
    assert tokenizer.encode("é") == [2, 3]
    thai = CharTokenizer({s: i for i, s in enumerate(["<pad>", "ท", "\u0e4d", "\u0e32"])})
    assert thai.encode("ท\u0e33") == [1, 2, 3] and basic(thai.decode([1, 2, 3])) == "ท\u0e33"
    assert tokenizer.decode([2, 3]) == "e\u0301"


def test_spaces_are_left_out_where_none_can_be_written(tmp_path):
    _, ours = theirs_and_ours("no delimiter", tmp_path)
    assert ours.encode("你 好") == ours.encode("你好") == [2, 3]


def test_phones_are_written_as_transformers_reads_them(tmp_path):
    CharTokenizer.build(["tʃ oʊ n", "ə n"], phones=True).save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == PHONES
    theirs, ours = Wav2Vec2PhonemeCTCTokenizer.from_pretrained(tmp_path), CharTokenizer.load(tmp_path)
    assert theirs("tʃ ə n").input_ids == ours.encode("tʃ ə n")
    assert theirs.decode(ours.encode("tʃ ə n")) == ours.decode(ours.encode("tʃ ə n")) == "tʃ ə n"


@pytest.mark.parametrize(
    "name", ["phones", "phones with words", "capitals printed small", "no delimiter", "blank last"]
)
def test_a_model_keeps_the_writing_of_its_vocabulary(name, tmp_path):
    """A folder that speechssl writes gives transformers the tokenizer that it was read from."""
    theirs, ours = theirs_and_ours(name, tmp_path)
    families.save(tmp_path / "model", Wav2Vec2ForCTC(tiny(), len(ours)), ours, {})
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert type(again) is type(theirs)
    ids = torch.arange(len(ours)).repeat(2)
    assert again.decode(ids) == theirs.decode(ids)


def test_added_tokens_beyond_the_outputs_are_not_the_model_s(tmp_path):
    """Many published models: <s> and </s> were added to the tokenizer, but the output layer has only the vocabulary."""
    _, tokenizer = theirs_and_ours("blank last", tmp_path)
    assert len(tokenizer) == 7
    small = CharTokenizer.load(tmp_path / "out", outputs=5)
    assert len(small) == 5 and small.blank == 4
    families.save(tmp_path / "model", Wav2Vec2ForCTC(tiny(), 5), small, {})
    for name in ("vocab.json", "added_tokens.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((tmp_path / "out" / name).read_bytes())
    assert families.read(tmp_path / "model").tokenizer.vocab == small.vocab


def test_added_tokens_of_one_language_are_not_another_s(tmp_path):
    """MMS has a vocabulary for each language; transformers' folder lists the added tokens of the one that was last used."""
    vocabs = {"eng": {"<pad>": 0, "a": 1, "|": 2, "th": 3}, "fra": {"<pad>": 0, "é": 1, "|": 2}}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabs))
    settings = {"target_lang": "eng", "added_tokens_decoder": {"3": {"content": "th", "special": False}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert CharTokenizer.load(tmp_path, "fra").vocab == vocabs["fra"]
    assert CharTokenizer.load(tmp_path).vocab == vocabs["eng"]


def test_an_id_beyond_any_model_is_told(tmp_path):
    (tmp_path / "vocab.json").write_text('{"<pad>": 1e30}')
    with pytest.raises(InputError, match=r"vocab\.json .* in the millions"):
        CharTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        "[]",
        '{"added_tokens_decoder": {"1": {}}}',
        '{"added_tokens_decoder": [1]}',
        '{"pad_token": ["x"]}',
        '{"added_tokens_decoder": {"x": {"content": "a"}}}',
        "{",
    ],
)
def test_settings_that_are_none_are_told(settings, tmp_path):
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "a": 1}')
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(InputError, match=r"vocab\.json cannot be used as a vocabulary"):
        CharTokenizer.load(tmp_path)


def test_each_phone_has_its_time(tmp_path):
    _, ours = theirs_and_ours("phones", tmp_path)
    ids_T = torch.tensor([1, 4, 4, 1, 6, 5, 1])
    found = greedy(torch.nn.functional.one_hot(ids_T, len(ours)).float().log(), ours, GEOMETRY)
    assert (found.text, [word.text for word in found.words]) == ("n ə tʃ", ["n", "ə", "tʃ"])
    assert re.fullmatch(r"n ə tʃ", str(found))
