"""Convolutions over a stream (N, C), time first: the channels-last layout of oneDNN and cuDNN, so nothing is transposed.

Those libraries compute the forward pass and the gradient of the stream. Their gradients of the weights, and of grouped
convolutions, are slow on a CPU and are replaced here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from speechssl.models.kernels.products import compute_type, onednn_serves, product


class StreamConv(torch.autograd.Function):
    """Strided convolution of a stream (N, C) with weights (O, C, K) -> (T, O), T = (N - K) // stride + 1, in one precision.

    The gradient of the weights is a matrix product for every `stride` taps.
    """

    @staticmethod
    def forward(ctx, x_NC: Tensor, weight_OCK: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x_NC, weight_OCK)
        ctx.stride = stride
        return image_rows(F.conv2d(as_image(x_NC), as_kernel(weight_OCK), stride=(1, stride)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (x_NC, weight_OCK), stride = ctx.saved_tensors, ctx.stride
        grad_TO, (channels, kernel) = grads[0].contiguous(), weight_OCK.shape[1:]
        parts = []
        for first in range(0, kernel, stride):
            taps = min(stride, kernel - first)
            shape, strides = (len(grad_TO), taps * channels), (stride * channels, 1)
            seen_TB = x_NC.as_strided(shape, strides, x_NC.storage_offset() + first * channels).contiguous()
            faster = seen_TB.dtype == torch.float32 and onednn_serves(seen_TB, torch.float32)
            part_OB = product(grad_TO.T, seen_TB.T) if faster else grad_TO.T @ seen_TB
            parts.append(part_OB.unflatten(1, (taps, channels)))
        weight_grad_OCK = torch.cat(parts, dim=1).transpose(1, 2)
        if not ctx.needs_input_grad[0]:
            return None, weight_grad_OCK, None
        unseen = (0, (len(x_NC) - kernel) % stride)
        back = F.conv_transpose2d(as_image(grad_TO), as_kernel(weight_OCK), stride=(1, stride), output_padding=unseen)
        return image_rows(back), weight_grad_OCK, None


def as_image(x_NC: Tensor) -> Tensor:
    """(N, C) as the channels-last image (1, C, 1, N), in place."""
    return x_NC.T[None, :, None]


def as_kernel(weight_OCK: Tensor) -> Tensor:
    """(O, C, K) as the channels-last kernel (O, C, 1, K)."""
    return weight_OCK[:, :, None].contiguous(memory_format=torch.channels_last)


def image_rows(image_1O1T: Tensor) -> Tensor:
    """The inverse of `as_image`."""
    return image_1O1T[0, :, 0].T.contiguous()


def conv_stream(x_NC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None, stride: int) -> Tensor:
    """Strided 1-D convolution of a stream (N, C) -> (T, O); row t sees rows t*stride ... t*stride + K - 1."""
    kind = compute_type(x_NC)
    with torch.autocast(x_NC.device.type, enabled=False):
        y_TO = StreamConv.apply(x_NC.to(kind).contiguous(), weight_OCK.to(kind), stride)
    return y_TO if bias_O is None else y_TO + bias_O.to(kind)


class GroupedConv(torch.autograd.Function):
    """Convolution (N, C) -> (N - K + 1, O) of stride 1 in groups, in one precision. The gradient of the stream is a convolution
    too, with each kernel flipped and inputs and outputs swapped."""

    @staticmethod
    def forward(ctx, x_NC: Tensor, weight_OCK: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(x_NC, weight_OCK)
        ctx.groups = groups
        return image_rows(F.conv2d(as_image(x_NC), as_kernel(weight_OCK), groups=groups))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (x_NC, weight_OCK), groups = ctx.saved_tensors, ctx.groups
        reach = weight_OCK.shape[2] - 1
        flipped_COK = weight_OCK.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2)
        spaced_NO = F.pad(grads[0], (0, 0, reach, reach))
        x_grad_NC = image_rows(F.conv2d(as_image(spaced_NO), as_kernel(flipped_COK), groups=groups))
        sizes = None, [1], [0], [1], False, [0], groups
        _, weight_grad_OCK, _ = torch.ops.aten.convolution_backward(
            grads[0].T[None], x_NC.T[None], weight_OCK, *sizes, [False, True, False]
        )
        return x_grad_NC, weight_grad_OCK, None


def conv_grouped(x_NC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None, groups: int) -> Tensor:
    """1-D convolution of stride 1 in groups, without padding: (N, C) -> (N - K + 1, O); weights (O, C / groups, K)."""
    kind = compute_type(x_NC)
    with torch.autocast(x_NC.device.type, enabled=False):
        y_TO = GroupedConv.apply(x_NC.to(kind).contiguous(), weight_OCK.to(kind), groups)
    return y_TO if bias_O is None else y_TO + bias_O.to(kind)
