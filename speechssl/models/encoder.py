"""The convolutional feature encoder (wav2vec 2.0, section 2; appendix B) on a packed stream.

The stream is kept as (N, C), time first. A convolution of kernel k and stride s is then a sum of ceil(k / s) matrix
products: cut time into blocks of s frames, and tap group i multiplies the block that lies i further. Nothing is unfolded
or transposed, every layer has exactly N / stride rows, and layer norm over channels needs no transposition either.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.config import Wav2Vec2Config
from speechssl.packed import Packed, starts


def conv_stream(x_NC: Tensor, weight_OCK: Tensor, bias_O: Tensor | None, stride: int) -> Tensor:
    """Strided 1-D convolution of a stream (N, C) -> (N / stride, O); row t sees rows t*stride ... t*stride + K - 1."""
    channels, kernel = weight_OCK.shape[1:]
    blocks = -(-kernel // stride)
    rows = len(x_NC) // stride
    x_TB = F.pad(x_NC.reshape(rows, stride * channels), (0, 0, 0, blocks - 1))
    weight_BO = weight_OCK.permute(2, 1, 0).reshape(kernel * channels, -1)
    y_TO = x_TB.new_zeros(()) if bias_O is None else bias_O.to(x_TB.dtype)
    for i in range(blocks):
        taps = slice(i * stride * channels, min((i + 1) * stride, kernel) * channels)
        y_TO = y_TO + x_TB[i : i + rows, : taps.stop - taps.start] @ weight_BO[taps]
    return y_TO


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
        x_TO = conv_stream(x_NC, self.conv.weight, self.conv.bias, self.conv.stride[0])
        if isinstance(self.layer_norm, nn.GroupNorm):
            x_TO = utterance_norm(x_TO, valid, self.layer_norm)
        elif self.layer_norm is not None:
            x_TO = self.layer_norm(x_TO)
        return F.gelu(x_TO)


def utterance_norm(x_TC: Tensor, valid: list[slice], norm: nn.GroupNorm) -> Tensor:
    """Group norm with one channel per group: statistics per utterance and channel over the utterance's own frames.

    On (T, C) that is batch norm without memory, a fused kernel. Rows between utterances become zero.
    """
    edges = [0, *(edge for rows in valid for edge in (rows.start, rows.stop)), len(x_TC)]
    pieces = list(x_TC.split([b - a for a, b in pairwise(edges)]))  # split, unlike slicing, has a cheap backward
    for i in range(1, len(pieces), 2):
        pieces[i] = F.batch_norm(pieces[i], None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    pieces[::2] = [torch.zeros_like(gap) for gap in pieces[::2]]
    return torch.cat(pieces)


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
