"""The count of operations equals what torch counts while transformers' model of the same sizes runs."""

from dataclasses import replace

import flops
import pytest
import torch
from peers import transformers_config
from torch.utils.flop_counter import FlopCounterMode
from work import Spec

from speechssl.models.wav2vec2.config import Wav2Vec2Config

SAMPLES = 33_333


def spec(size: str, task: str) -> Spec:
    return Spec(task=task, size=size, dtype="float32", device="cpu", threads=1, seed=1, data="", seconds=(2.0,))


@pytest.mark.parametrize("size", ["tiny", "base"])
@pytest.mark.parametrize("task", ["transcribe", "finetune"])
def test_counts_what_torch_counts(size, task):
    """One group in the positional convolution: torch miscounts the gradient of several."""
    from transformers import Wav2Vec2ForCTC

    config = transformers_config(spec(size, task), num_conv_pos_embedding_groups=1)
    config.vocab_size, config._attn_implementation = 30, "eager"
    with torch.device("meta"):
        model = Wav2Vec2ForCTC(config).train(task == "finetune")
        model.freeze_feature_encoder()
        wave = torch.zeros(1, SAMPLES)
    with FlopCounterMode(display=False) as counter:
        logits = model(wave).logits
        if task == "finetune":
            logits.sum().backward()
    ours = replace(spec(size, task).config, num_conv_pos_embedding_groups=1)
    counted = pytest.approx(counter.get_total_flops(), rel=0.02)  # an even kernel makes a frame too many there
    assert flops.step_flops(ours, task, [SAMPLES], vocab=30) == counted
    head = 2.0 * ours.geometry.frames(SAMPLES) * ours.hidden_size * 30
    assert flops.step_flops(ours, "embed", [SAMPLES]) + head == flops.step_flops(
        ours, "transcribe", [SAMPLES], vocab=30
    )


def test_base_needs_44_gigaflop_for_a_second_of_pretraining():
    config, samples = Wav2Vec2Config(), 15 * 16_000
    masked = [round(0.49 * config.geometry.frames(samples))]
    assert flops.step_flops(config, "pretrain", [samples], masked=masked) / 15e9 == pytest.approx(44, rel=0.05)


def test_peak_is_what_a_product_reaches():
    torch.set_num_threads(1)
    peaks = flops.matmul_peaks(torch.float32, "cpu", seconds=0.2, size=512)
    assert "torch" in peaks
    assert all(1e9 < peak < 1e14 for peak in peaks.values())
