"""The convolutional feature encoder (wav2vec 2.0, section 2; appendix B) on a packed stream.

The stream is kept as (N, C), time first, so that neither convolution nor layer norm over channels needs a transposition. The
first layer's group norm is folded into its weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechssl.core.packed import Packed, starts
from speechssl.models.kernels.conv import conv_stream
from speechssl.models.kernels.products import compute_type
from speechssl.models.wav2vec2.config import Wav2Vec2Config


class ConvLayer(nn.Module):
    """Convolution, normalisation (or none), GELU. Parameters have the names that transformers gives them."""

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
        """(N, C) -> (T, O); `valid` are each utterance's rows of the output."""
        if isinstance(self.layer_norm, nn.GroupNorm):
            weight_OK = self.conv.weight[:, 0]  # a bias would vanish in the norm
            return F.gelu(conv_and_norm(x_NC[:, 0], weight_OK, self.layer_norm, self.conv.stride[0], valid))
        x_TO = conv_stream(x_NC, self.conv.weight, self.conv.bias, self.conv.stride[0])
        if self.layer_norm is not None:
            x_TO = self.layer_norm(x_TO).to(x_TO.dtype)  # autocast would widen it
        return F.gelu(x_TO)


class SegmentedLinear(torch.autograd.Function):
    """Rows (T, K) times the matrix of their utterance, (B, K, O) -> (T, O); rows outside every utterance become zero. The input
    is audio and gets no gradient."""

    @staticmethod
    def forward(ctx, x_TK: Tensor, weight_BKO: Tensor, rows: list[slice]) -> Tensor:
        ctx.save_for_backward(x_TK)
        ctx.rows = rows
        y_TO = x_TK.new_empty(len(x_TK), weight_BKO.shape[2])
        ends = [0, *(own.stop for own in rows)]
        for end, own, weight_KO in zip(ends, rows, weight_BKO, strict=False):
            y_TO[end : own.start] = 0
            torch.mm(x_TK[own], weight_KO, out=y_TO[own])
        y_TO[ends[-1] :] = 0
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[None, Tensor, None]:
        (x_TK,) = ctx.saved_tensors
        return None, torch.stack([x_TK[own].T @ grads[0][own] for own in ctx.rows]), None


def conv_and_norm(stream_N: Tensor, weight_OK: Tensor, norm: nn.GroupNorm, stride: int, valid: list[slice]) -> Tensor:
    """The first convolution and its group norm (a group per channel) as a matrix product per utterance: (N,) -> (N / stride, O).

    Frame t has the K samples x_t, and channel o is y_t = w_o x_t. Over an utterance's frames, with the samples' mean m and
    covariance C, the mean of y is w_o m and its variance w_o C w_o^T. So with g and b, the norm's weight and bias,

        norm(y_t) = g (y_t - mean) / sqrt(variance + eps) + b = (g w_o / sqrt(w_o C w_o^T + eps)) (x_t - m) + b

    which is a product of scaled weights with centred samples: the output itself is never normalised.
    """
    kernel, kind = weight_OK.shape[1], compute_type(stream_N)
    with torch.autocast(stream_N.device.type, enabled=False):
        samples_TK = F.pad(stream_N, (0, kernel - stride)).unfold(0, kernel, stride)
        inputs_TK, covariance_BKK = centred(samples_TK, valid)
        exact_OK = weight_OK.double()  # neighbouring samples are nearly equal, so a filter's terms cancel
        variance_BO = ((exact_OK @ covariance_BKK) * exact_OK).sum(dim=2).clamp_min(0)
        scale_BO = norm.weight * (variance_BO + norm.eps).rsqrt().to(norm.weight.dtype)
        scaled_BKO = (weight_OK * scale_BO[..., None]).mT
        bias_B1O = norm.bias.expand(len(valid), 1, -1)
        matrix_BKO = torch.cat([scaled_BKO, bias_B1O], dim=1)  # the bias meets the inputs' column of ones
        return SegmentedLinear.apply(inputs_TK.to(kind), matrix_BKO.to(kind), valid)


def centred(samples_TK: Tensor, valid: list[slice]) -> tuple[Tensor, Tensor]:
    """(samples minus their utterance's mean, beside a column of ones (T, K + 1); their covariances (B, K, K) in float64).

    Rows outside `valid` become zero.
    """
    kernel = samples_TK.shape[1]
    inputs_TK = samples_TK.new_zeros(len(samples_TK), kernel + 1)
    covariances = []
    for rows in valid:
        own_TK = samples_TK[rows].double()
        own_TK = own_TK - own_TK.mean(dim=0)
        covariances.append(own_TK.T @ own_TK / len(own_TK))
        inputs_TK[rows, :kernel] = own_TK
        inputs_TK[rows, kernel] = 1.0
    return inputs_TK, torch.stack(covariances)


class ConvEncoder(nn.Module):
    """The stack of convolutions: raw samples -> one feature vector every hop (20 ms)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.geometry = config.stream
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
        return x_NC.index_select(0, batch.valid_T)

    def whole(self, batch: Packed) -> tuple[int, ...]:
        """How many frames of each utterance are computed from audio alone: all."""
        return batch.frames
