"""Attention in bf16 is float32's rounded; checkpointed layers are the same layers, and skipped ones are passed over."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.core.packed import pack
from speechssl.models.wav2vec2.context import PositionalConv, attend
from speechssl.models.wav2vec2.model import Wav2Vec2Model
from tests.conftest import tiny


@pytest.mark.parametrize("frames", [1, 7, 300])
def test_bf16_attention_is_float32_attention_rounded(frames):
    torch.manual_seed(frames)
    exact = [torch.randn(1, 2, frames, 16, requires_grad=True) for _ in range(3)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    pull = torch.randn(1, 2, frames, 16)
    expected, mine = F.scaled_dot_product_attention(*exact), attend(*rounded, 0.0)
    assert mine.dtype == torch.bfloat16
    pairs = [(mine, expected)]
    pairs += zip(torch.autograd.grad(mine, rounded, pull), torch.autograd.grad(expected, exact, pull), strict=True)
    for value, reference in pairs:
        assert (value.float() - reference).norm() <= 0.02 * reference.norm() + 1e-6


def test_gradient_checkpointing_changes_memory_only(family, speech):
    """Same dropout, same gradients to the last bit; fewer tensors wait for the backward pass."""
    model = Wav2Vec2Model(tiny(family, num_hidden_layers=8, hidden_dropout=0.1, attention_dropout=0.1)).train()
    batch = pack([speech[:20_000], speech[20_000:32_000]], model.config.geometry)
    found = []
    for on in (False, True):
        model.zero_grad()
        torch.manual_seed(5)
        waiting = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, w=waiting: w.append(x.numel()) or x, lambda x: x):
            loss = model(batch, checkpointing=on).states[-1].square().sum()
        loss.backward()
        found.append((sum(waiting), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (plenty, expected), (little, again) = found
    assert little < 0.7 * plenty
    assert all(a.equal(b) for a, b in zip(again, expected, strict=True))


def test_skipped_layers_pass_their_input_on(family, speech):
    model = Wav2Vec2Model(tiny(family, num_hidden_layers=3)).eval()
    batch = pack([speech[:20_000]], model.config.geometry)
    states = model(batch, skip=frozenset({0, 1})).states
    assert states[0].equal(states[1]) and states[1].equal(states[2]) and not states[2].equal(states[3])


def test_the_positional_convolution_starts_as_published_whatever_the_dropout():
    """std = sqrt(4 / (K D)), as transformers has it: dropout may be another one when a run continues."""
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        conv = PositionalConv(tiny(hidden_size=64, num_conv_pos_embeddings=64, hidden_dropout=dropout)).conv
        assert float(conv.weight.detach().std()) == pytest.approx((4 / (64 * 64)) ** 0.5, rel=0.05)
