"""Fine-tuning on with another alphabet: the output layer follows the symbols, not their places."""

from dataclasses import replace

import pytest
import torch

from speechssl.data.manifest import Manifest, Utterance
from speechssl.models.checkpoint import Checkpoint, checkpoint_of
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.objectives.ctc import CTC, Recipe
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


@pytest.mark.parametrize("text", ["abcdé", "bcd", "zyabcdexw", "γδ"])
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


def test_the_same_alphabet_is_not_reported(start, capsys):
    CTC.build(Recipe(), start, rows("edcba"))
    assert capsys.readouterr().err == ""


def test_without_a_vocabulary_nothing_is_guessed(start):
    found = CTC.build(Recipe(), replace(start, tokenizer=None), rows("abcde"))
    assert not torch.allclose(found.model.lm_head.bias, start.state["lm_head.bias"])
