"""Attention in bf16 on the CPU is spelled out; it stays within the rounding of bf16, gradients included."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.models.context import attend


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
