"""Linear equals nn.Linear in every mode, gradients included, and never answers with weights of yesterday."""

import copy

import pytest
import torch
import torch.nn.functional as F

from speechssl.models.kernels.products import Linear


def plain(layer: Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("shape", [(1, 8), (37, 8), (2, 5, 8), (0, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_training_and_inference(shape, bias):
    layer, x = Linear(8, 12, bias=bias), torch.randn(*shape, requires_grad=True)
    leaves = [x, *layer.parameters()]
    mine, expected = layer(x), plain(layer, x)
    torch.testing.assert_close(mine, expected)
    pull = torch.randn_like(expected)
    for a, b in zip(torch.autograd.grad(mine, leaves, pull), torch.autograd.grad(expected, leaves, pull), strict=True):
        torch.testing.assert_close(a, b)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected.detach())


def test_a_transposed_input():
    layer, x = Linear(8, 4), torch.randn(8, 6).T.requires_grad_()
    torch.testing.assert_close(layer(x), plain(layer, x))
    assert torch.autograd.grad(layer(x).sum(), x)[0].shape == x.shape


def test_bf16_is_float32_rounded():
    layer, x = Linear(64, 32), torch.randn(50, 64)
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer(x)
        with torch.inference_mode():
            found = layer(x)
    assert trained.dtype == found.dtype == torch.bfloat16
    for y in (trained, found):
        assert (y.float() - plain(layer, x)).norm() < 0.01 * plain(layer, x).norm()


@pytest.mark.parametrize("change", ["in place", "data", "in place of data", "parameter", "load"])
def test_inference_sees_new_weights(change):
    layer, x = Linear(8, 4), torch.randn(3, 8)
    with torch.inference_mode():
        layer(x)
    fresh = torch.randn(4, 8)
    if change == "in place":
        with torch.no_grad():
            layer.weight.copy_(fresh)
    elif change == "data":
        layer.weight.data = fresh
    elif change == "in place of data":
        layer.weight.data.copy_(fresh)
    elif change == "parameter":
        layer.weight = torch.nn.Parameter(fresh)
    else:
        layer.load_state_dict({"weight": fresh, "bias": layer.bias.detach()})
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), F.linear(x, fresh, layer.bias))
        torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
