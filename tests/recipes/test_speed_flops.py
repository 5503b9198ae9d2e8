"""The count of operations equals what torch counts while transformers' model of the same sizes runs."""

from dataclasses import replace

import flops
import pytest
import rival
import torch
from torch.utils.flop_counter import FlopCounterMode
from work import LETTERS, Spec

from speechssl.models.wav2vec2.config import Wav2Vec2Config

SAMPLES = 33_333


@pytest.mark.parametrize("size", ["tiny", "base"])
@pytest.mark.parametrize("task", ["embed", "finetune"])
def test_counts_what_torch_counts(size, task, monkeypatch):
    """One group in the positional convolution: torch miscounts the gradient of several."""
    given = Spec(task, size, "float32", "meta", 1, 1, (2.0,))
    config = replace(given.config, num_conv_pos_embedding_groups=1)
    monkeypatch.setattr(Spec, "config", config)
    with torch.device("meta"):
        model = rival.network(given)
        model.set_attn_implementation("eager")
        wave = torch.zeros(1, SAMPLES)
    with FlopCounterMode(display=False) as counter:
        found = model(wave)[0]
        if task == "finetune":
            found.sum().backward()
    counted = pytest.approx(counter.get_total_flops(), rel=0.02)  # an even kernel makes a frame too many there
    assert flops.step_flops(config, task, [SAMPLES], vocab=len(LETTERS)) == counted


def test_base_needs_44_gigaflop_for_a_second_of_pretraining():
    config, samples = Wav2Vec2Config(), 15 * 16_000
    masked = [round(0.49 * config.geometry.frames(samples))]
    assert flops.step_flops(config, "pretrain", [samples], masked) / 15e9 == pytest.approx(44, rel=0.05)
