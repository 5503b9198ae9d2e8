"""Matrix products by the faster of the two libraries that torch brings for the CPU.

For float32 torch calls MKL, which on processors not made by Intel reaches half of oneDNN's speed; for bf16 it calls oneDNN, but
reorders the weights at every call. On a GPU, in an export and where oneDNN is missing, torch chooses.
"""

from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PACKED: WeakKeyDictionary[nn.Module, tuple[Any, Any, Tensor]] = (
    WeakKeyDictionary()
)  # (weight, its state, packed weight)
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
KINDS = {torch.float32, torch.bfloat16} if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported() else {torch.float32}


def compute_type(x: Tensor) -> torch.dtype:
    """The type that autocast computes in on the device of `x`; without autocast, the type of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def onednn_serves(x: Tensor, kind: torch.dtype) -> bool:
    """Whether oneDNN can be called directly for a product of `x` in type `kind`; bf16 needs a processor with AVX-512."""
    return ONEDNN and kind in KINDS and x.device.type == "cpu" and x.numel() > 0 and not torch.compiler.is_compiling()


def product(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x W^T + b without gradient; both operands contiguous or transposed, float32 or bf16, on the CPU."""
    return torch.ops.mkldnn._linear_pointwise(x_MK, weight_NK, bias_N, "none", [], "")


class LinearProduct(torch.autograd.Function):
    """x W^T + b in float32 by oneDNN, and its gradients."""

    @staticmethod
    def forward(ctx, x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_MK, weight_NK)
        return product(x_MK, weight_NK, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_MK, weight_NK = ctx.saved_tensors
        grad_MN, (x, weight, bias) = grads[0].contiguous(), ctx.needs_input_grad
        return (
            product(grad_MN, weight_NK.T) if x else None,
            product(grad_MN.T, x_MK.T) if weight else None,
            grad_MN.sum(dim=0) if bias else None,
        )


class Linear(nn.Linear):
    """nn.Linear, faster on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        kind = compute_type(x)
        if not onednn_serves(x, kind):
            return F.linear(x, self.weight, self.bias)
        if torch.is_inference_mode_enabled():
            bias_N = None if self.bias is None else self.bias.to(kind)
            return product(x.to(kind).contiguous(), self.packed(kind), bias_N)
        if kind == torch.float32 == self.weight.dtype == x.dtype:
            y_MN = LinearProduct.apply(x.reshape(-1, x.shape[-1]).contiguous(), self.weight, self.bias)
            return y_MN.view(*x.shape[:-1], -1)
        return F.linear(x, self.weight, self.bias)

    def packed(self, kind: torch.dtype) -> Tensor:
        """The weights in type `kind` and in oneDNN's order, cached until they change."""
        weight = self.weight
        if weight.is_inference():  # such tensors have no version counter
            return weight.to(kind)
        some = (
            weight.detach().flatten()[:: weight.numel() // 16 + 1].tolist()
        )  # the version misses writes through .data
        state = weight._version, weight.data_ptr(), kind, some
        known = PACKED.get(self)
        if known is None or known[0]() is not weight or known[1] != state:
            known = ref(weight), state, torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(kind), None)
            PACKED[self] = known
        return known[2]
