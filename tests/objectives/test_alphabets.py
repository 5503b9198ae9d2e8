"""Fine-tuning on with another alphabet: the output layer follows the symbols, not their places."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechssl.data.manifest import Manifest, Utterance
from speechssl.models.checkpoint import Checkpoint, checkpoint_of
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.objectives.ctc import CTC, Recipe
from speechssl.objectives.transcripts import TextConfig
from speechssl.text.tokenizer import CharTokenizer
from tests.conftest import tiny


@pytest.fixture
def start() -> Checkpoint:
    """A model that writes a ... e; the bias of each output is its number."""
    tokenizer = CharTokenizer.build(["abcde"])
    model = Wav2Vec2ForCTC(tiny(), len(tokenizer))
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.arange(len(tokenizer)))
    return checkpoint_of(model, tokenizer, {})


def rows(text: str) -> list[Manifest]:
    """Training data with one transcript."""
    return [Manifest.of([Utterance(id="a", path="a.wav", duration=1.0, text=text)])]


@pytest.mark.parametrize("text", ["abcdé", "bcdx", "zyabcdexw", "γδ"])
def test_each_symbol_keeps_its_own_weights(start, capsys, text):
    found = CTC.build(Recipe(), start, rows(text))
    old, new = start.tokenizer.vocab, found.tokenizer.vocab
    for symbol in old.keys() & new.keys():
        for name in ("weight", "bias"):
            kept = getattr(found.model.lm_head, name)[new[symbol]]
            assert torch.equal(kept, start.state[f"lm_head.{name}"][old[symbol]]), symbol
    said = capsys.readouterr().err
    assert f"new: {' '.join(sorted(set(text) - set('abcde'))) or 'none'};" in said
    assert f"dropped: {' '.join(sorted(set('abcde') - set(text))) or 'none'}" in said
    assert said.count("\n") == 1


def test_a_new_symbol_gets_new_weights(start):
    found = CTC.build(Recipe(), start, rows("abcdé"))
    fresh = found.model.lm_head.weight[found.tokenizer.vocab["é"]]
    assert not any(torch.allclose(fresh, row) for row in start.state["lm_head.weight"])


@pytest.mark.parametrize("text", ["edcba", "bcd", "a bad bed"])
def test_a_vocabulary_that_covers_the_transcripts_is_kept(start, capsys, text):
    """All of it: letters that these transcripts lack, too, and each at its place."""
    found = CTC.build(Recipe(), start, rows(text))
    assert found.tokenizer is start.tokenizer
    assert torch.equal(found.model.lm_head.bias, start.state["lm_head.bias"])
    assert capsys.readouterr().err == ""


def made(vocab: dict[str, int], folder: Path, **settings: object) -> Checkpoint:
    """A model of a vocabulary and its settings, as its folder says; the bias of each output is its number."""
    model = Wav2Vec2ForCTC(tiny(), max(vocab.values()) + 1)
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.arange(len(model.lm_head.bias)))
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return checkpoint_of(model, CharTokenizer.load(folder), {})


def biases(found: CTC) -> dict[str, int]:
    """symbol -> the number of the output of `start` that its bias is from, for the symbols that have one."""
    values = found.model.lm_head.bias.tolist()
    return {symbol: round(values[i]) for symbol, i in found.tokenizer.vocab.items() if values[i] % 1 == 0 and values[i]}


def test_capitals_become_small_letters_with_their_weights(tmp_path, capsys):
    start = made({"A": 1, "B": 2, "É": 3, "|": 4, "<pad>": 5, "<unk>": 6}, tmp_path)
    found = CTC.build(Recipe(), start, rows("a bé c"))
    assert biases(found) == {"a": 1, "b": 2, "é": 3, "|": 4, "<pad>": 5, "<unk>": 6}
    assert (
        "6 symbols keep their weights, 3 of them from the other case; new: c; dropped: none" in capsys.readouterr().err
    )
    kept = CTC.build(Recipe(text=TextConfig(normaliser="upper")), start, rows("a bé"))
    assert kept.tokenizer is start.tokenizer


def test_capitals_that_print_small_letters_are_kept(tmp_path):
    start = made({"A": 1, "B": 2, "|": 4, "<pad>": 5, "<unk>": 6}, tmp_path, do_lower_case=True)
    assert CTC.build(Recipe(), start, rows("a ba")).tokenizer is start.tokenizer


def test_a_long_list_of_symbols_is_cut_and_counted(tmp_path, capsys):
    start = made({"<pad>": 1, "|": 2, "<unk>": 3} | {chr(0x4E00 + i): 4 + i for i in range(3000)}, tmp_path)
    CTC.build(Recipe(), start, rows("ab"))
    said = capsys.readouterr().err
    assert "new: a b; dropped: 3000, 一 丁" in said and len(said) < 300


def test_a_blank_anywhere_and_another_spelling_keep_their_rows(tmp_path, capsys):
    start = made({"b": 1, "a": 2, " ": 3, "[UNK]": 4, "[PAD]": 5}, tmp_path, pad_token="[PAD]", unk_token="[UNK]")
    assert CTC.build(Recipe(), start, rows("ab a")).tokenizer is start.tokenizer
    assert capsys.readouterr().err == ""
    found = CTC.build(Recipe(), start, rows("ab c"))
    assert biases(found) == {"b": 1, "a": 2, "|": 3, "<unk>": 4, "<pad>": 5}
    assert "5 symbols keep their weights; new: c; dropped: none" in capsys.readouterr().err


def test_spaces_that_the_vocabulary_cannot_write_are_added(tmp_path, capsys):
    start = made({"<pad>": 1, "a": 2, "b": 3, "好": 4, "你": 5}, tmp_path)
    assert CTC.build(Recipe(), start, rows("你，好")).tokenizer is start.tokenizer, "no spaces between words"
    found = CTC.build(Recipe(), start, rows("a b"))
    assert biases(found) == {"<pad>": 1, "a": 2, "b": 3}
    assert "new: <unk> |; dropped: 你 好" in capsys.readouterr().err


def test_a_given_vocabulary_wins_and_what_it_cannot_write_is_told(start, tmp_path, capsys):
    (tmp_path / "v.json").write_text('{"e": 0, "b": 1, "<pad>": 2}')
    found = CTC.build(Recipe(text=TextConfig(vocab=str(tmp_path / "v.json"))), start, rows("be b"))
    assert biases(found) == {"e": start.tokenizer.vocab["e"], "b": start.tokenizer.vocab["b"]}
    said = capsys.readouterr().err
    assert "v.json has no word delimiter; the spaces between the words" in said and "dropped: <unk> a c d |" in said


def test_phones_are_symbols_of_their_own(tmp_path, capsys):
    start = made({"<pad>": 1, "t": 2, "tʃ": 3, "oʊ": 4, "<unk>": 5}, tmp_path, phone_delimiter_token=" ")
    assert CTC.build(Recipe(), start, rows("tʃ oʊ t")).tokenizer is start.tokenizer
    found = CTC.build(Recipe(text=TextConfig(symbols="phones")), start, rows("tʃ oʊ ɪ̃"))
    assert found.tokenizer.writing.phones
    assert biases(found) == {"<pad>": 1, "tʃ": 3, "oʊ": 4, "<unk>": 5}
    assert "new: ɪ̃; dropped: t" in capsys.readouterr().err


def test_another_language_than_before_is_told(start, capsys):
    """The Turkish model's i and ı would be confused by a recipe that does not know the language."""
    turkish = replace(start, raw={"speechssl": {"text": {"language": "tr"}}})
    CTC.build(Recipe(), turkish, rows("abc"))
    assert "was trained with text.language = tr, this run has none" in capsys.readouterr().err
    CTC.build(Recipe(text=TextConfig(language="tr")), turkish, rows("abc"))
    assert capsys.readouterr().err == ""


def test_from_scratch_there_is_nothing_to_keep(start, capsys):
    found = CTC.build(Recipe(), start.without_weights(), rows("bcd"))
    assert list(found.tokenizer.vocab) == ["<pad>", "<unk>", "|", "b", "c", "d"]
    assert capsys.readouterr().err == ""


def test_without_a_vocabulary_nothing_is_guessed(start):
    found = CTC.build(Recipe(), replace(start, tokenizer=None), rows("abcde"))
    assert not torch.allclose(found.model.lm_head.bias, start.state["lm_head.bias"])
