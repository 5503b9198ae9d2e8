"""Cheap dropout drops as often as it should, keeps the mean, follows torch's seed, and leaves evaluation alone."""

import pytest
import torch

from speechssl.models.kernels.dropout import Dropout, dropout, keep_mask


@pytest.mark.parametrize("prob", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_rate_and_mean(prob, kind):
    x = torch.ones(700, 1501, dtype=kind)
    kept = keep_mask(x, prob)
    assert kept.dtype == kind and kept.shape == x.shape
    count = x.numel()
    deviation = (count * prob * (1 - prob)) ** 0.5
    assert abs(float((kept == 0).sum()) - prob * count) < 5 * deviation
    assert abs(float(dropout(x, prob).float().mean()) - 1) < 0.004  # bf16 rounds 1 / (1 - prob)


def test_neighbours_are_independent():
    """Four elements share a random number: no two lanes of it may agree more often than chance."""
    lanes = keep_mask(torch.empty(4 * 200_000), 0.5).view(-1, 4) - 0.5
    correlation = (lanes.T @ lanes) / (0.25 * len(lanes))
    assert (correlation - torch.eye(4)).abs().max() < 5 / len(lanes) ** 0.5


def test_follows_the_seed_and_any_size():
    for size in (1, 2, 3, 5):
        torch.manual_seed(3)
        first = keep_mask(torch.empty(size), 0.5)
        torch.manual_seed(3)
        assert torch.equal(first, keep_mask(torch.empty(size), 0.5))


def test_gradient_is_the_mask_and_evaluation_the_identity():
    layer, x = Dropout(0.25), torch.full((1000,), 2.0, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / 2)
    assert layer.eval()(x) is x
