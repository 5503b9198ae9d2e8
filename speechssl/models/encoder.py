"""The convolutional feature encoder (wav2vec 2.0, section 2; appendix B) on a packed stream.

The stream is kept as (N, C), time first. A convolution of kernel k and stride s is then a sum of ceil(k / s) matrix
products: cut time into blocks of s frames, and tap group i multiplies the block that lies i further. Nothing is unfolded
or transposed, every layer has exactly N / stride rows, and layer norm over channels needs no transposition either.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechssl.models.config import Wav2Vec2Config
from speechssl.packed import Packed, starts


class StreamConv(torch.autograd.Function):
    """The arithmetic of `conv_stream` on blocks (T, B = stride * C) and weights (K * C, O); every product is added in place."""

    @staticmethod
    def forward(ctx, x_TB: Tensor, weight_BO: Tensor) -> Tensor:
        ctx.save_for_backward(x_TB, weight_BO)
        y_TO = x_TB[:, : len(weight_BO)] @ weight_BO[: x_TB.shape[1]]
        for i, taps in enumerate(weight_BO.split(x_TB.shape[1])[1:], 1):
            y_TO[:-i].addmm_(x_TB[i:, : len(taps)], taps)
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        x_TB, weight_BO = ctx.saved_tensors
        grad_TO, width = grads[0].contiguous(), x_TB.shape[1]
        sizes = [len(taps) for taps in weight_BO.split(width)]
        rows = [slice(None, len(grad_TO) - i) for i in range(len(sizes))]
        weight_grad_BO = torch.cat([x_TB[i:, :n].T @ grad_TO[rows[i]] for i, n in enumerate(sizes)])
        if not ctx.needs_input_grad[0]:
            return None, weight_grad_BO
        x_grad_TB = F.pad(grad_TO @ weight_BO[:width].T, (0, max(0, width - len(weight_BO))))
        for i, taps in enumerate(weight_BO.split(width)[1:], 1):
            x_grad_TB[i:, : len(taps)].addmm_(grad_TO[rows[i]], taps.T)
        return x_grad_TB, weight_grad_BO


def conv_stream(x_NC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None, stride: int) -> Tensor:
    """Strided 1-D convolution of a stream (N, C) -> (N / stride, O); row t sees rows t*stride ... t*stride + K - 1."""
    kind = torch.get_autocast_dtype(x_NC.device.type) if torch.is_autocast_enabled(x_NC.device.type) else x_NC.dtype
    weight_BO = weight_OCK.permute(2, 1, 0).flatten(0, 1).to(kind)
    y_TO = StreamConv.apply(x_NC.to(kind).reshape(len(x_NC) // stride, -1), weight_BO)
    return y_TO if bias_O is None else y_TO + bias_O.to(kind)


class ConvLayer(nn.Module):
    """Convolution, normalisation (or none), GELU. Parameter names are transformers'."""

    def __init__(self, config: Wav2Vec2Config, index: int) -> None:
        super().__init__()
        inputs = config.conv_dim[index - 1] if index else 1
        width = config.conv_dim[index]
        self.conv = nn.Conv1d(
            inputs, width, config.conv_kernel[index], config.conv_stride[index], bias=config.conv_bias
        )
        nn.init.kaiming_normal_(self.conv.weight)
        self.layer_norm: nn.Module | None = None
        if config.feat_extract_norm == "layer":
            self.layer_norm = nn.LayerNorm(width)
        elif index == 0:
            self.layer_norm = nn.GroupNorm(width, width)

    def forward(self, x_NC: Tensor, valid: list[slice]) -> Tensor:
        """(N, C) -> (N / stride, O); `valid` are each utterance's rows of the output."""
        if isinstance(self.layer_norm, nn.GroupNorm):
            weight_OK = self.conv.weight[:, 0]  # a bias would vanish in the norm
            return F.gelu(conv_and_norm(x_NC[:, 0], weight_OK, self.layer_norm, self.conv.stride[0], valid))
        x_TO = conv_stream(x_NC, self.conv.weight, self.conv.bias, self.conv.stride[0])
        return F.gelu(x_TO if self.layer_norm is None else self.layer_norm(x_TO))


class SegmentedLinear(torch.autograd.Function):
    """Rows (T, K) times a matrix of their own utterance's, (B, K, O) -> (T, O); rows of no utterance become zero. The input
    gets no gradient: it is audio."""

    @staticmethod
    def forward(ctx, x_TK: Tensor, weight_BKO: Tensor, rows: list[slice]) -> Tensor:
        ctx.save_for_backward(x_TK)
        ctx.rows = rows
        y_TO = x_TK.new_zeros(len(x_TK), weight_BKO.shape[2])
        for own, weight_KO in zip(rows, weight_BKO, strict=True):
            torch.mm(x_TK[own], weight_KO, out=y_TO[own])
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[None, Tensor, None]:
        (x_TK,) = ctx.saved_tensors
        return None, torch.stack([x_TK[own].T @ grads[0][own] for own in ctx.rows]), None


def conv_and_norm(stream_N: Tensor, weight_OK: Tensor, norm: nn.GroupNorm, stride: int, valid: list[slice]) -> Tensor:
    """The first convolution and its group norm (one channel per group, statistics over an utterance's own frames) in one
    matrix product per utterance: (N,) -> (N / stride, O).

    The norm's input is linear in the K samples that a frame sees. Its mean vanishes when theirs do, its variance is the
    weights' quadratic form with their K x K covariance, and the scaling goes into the weights: nothing is normalised.
    """
    kernel = weight_OK.shape[1]
    kind = torch.get_autocast_dtype(stream_N.device.type) if torch.is_autocast_enabled(stream_N.device.type) else None
    with torch.autocast(stream_N.device.type, enabled=False):
        windows_TK = F.pad(stream_N, (0, kernel - stride)).unfold(0, kernel, stride)
        centred_TK = windows_TK.new_zeros(windows_TK.shape[0], kernel + 1)  # a last column of ones brings the norm's bias
        covariances = []
        for rows in valid:
            own_TK = windows_TK[rows] - windows_TK[rows].mean(dim=0)
            covariances.append(own_TK.T @ own_TK / len(own_TK))
            centred_TK[rows, :kernel], centred_TK[rows, kernel] = own_TK, 1.0
        variance_BO = ((weight_OK @ torch.stack(covariances)) * weight_OK).sum(dim=2).clamp_min(0)
        scale_BO = norm.weight * (variance_BO + norm.eps).rsqrt()
        scaled_BKO = (weight_OK * scale_BO[..., None]).mT
        all_BKO = torch.cat([scaled_BKO, norm.bias.expand(len(valid), 1, -1)], dim=1)
        return SegmentedLinear.apply(centred_TK.to(kind or centred_TK.dtype), all_BKO.to(kind or all_BKO.dtype), valid)


class ConvEncoder(nn.Module):
    """The stack of convolutions: raw samples -> one feature vector every hop (20 ms)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.geometry = config.geometry
        self.conv_layers = nn.ModuleList(ConvLayer(config, i) for i in range(len(config.conv_dim)))

    def forward(self, batch: Packed) -> Tensor:
        """Packed stream -> (T, C): the valid frames of every utterance, one utterance after the other."""
        x_NC = batch.stream_N[:, None]
        stride = 1
        spans = [-(-samples // self.geometry.hop) * self.geometry.hop for samples in batch.samples]
        for depth, layer in enumerate(self.conv_layers, 1):
            stride *= self.geometry.strides[depth - 1]
            counts = [self.geometry.frames(samples, depth) for samples in batch.samples]
            valid = [slice(a // stride, a // stride + n) for a, n in zip(starts(spans), counts, strict=True)]
            x_NC = layer(x_NC, valid)
        return x_NC[batch.valid_T]
