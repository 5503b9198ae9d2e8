"""transformers' adapter (`add_adapter`): strided convolutions after the last layer, which make longer frames for the head.

Each utterance is convolved by itself, with zeros around it. Parameters have the names that transformers gives them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.kernels.dropout import Dropout
from speechssl.models.kernels.products import Linear
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.conformer import ConformerAttention, Places
from speechssl.models.wav2vec2.context import FeedForward


def strided(config: Wav2Vec2Config) -> nn.Conv1d:
    """A convolution whose output a gate halves."""
    width, stride = config.output_width, config.adapter_stride
    return nn.Conv1d(width, 2 * width, config.adapter_kernel_size, stride, padding=config.adapter_padding)


def gated(conv: nn.Conv1d, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
    """(T, D) -> (T', D): the convolution of each utterance, gated."""
    return torch.cat([F.glu(conv(piece_TD.T[None]), dim=1)[0].T for piece_TD in x_TD.split(list(frames))])


class AdapterConv(nn.Module):
    """One convolution: all there is in wav2vec 2.0's adapter."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.conv = strided(config)

    def forward(self, x_TD: Tensor, before: Sequence[int], places: Places) -> Tensor:
        """(T, D) -> (T', D)."""
        return gated(self.conv, x_TD, before)


class AdapterBlock(nn.Module):
    """A transformer layer between two convolutions that shorten its input and its residual: w2v-BERT 2.0's adapter."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width, eps = config.output_width, config.layer_norm_eps
        self.residual_layer_norm, self.residual_conv = nn.LayerNorm(width, eps=eps), strided(config)
        self.self_attn_layer_norm, self.self_attn_conv = nn.LayerNorm(width, eps=eps), strided(config)
        self.self_attn = ConformerAttention(config, width)
        self.ffn_layer_norm, self.ffn = nn.LayerNorm(width, eps=eps), FeedForward(config, width, config.adapter_act)
        self.self_attn_dropout, self.dropout = Dropout(config.conformer_conv_dropout), Dropout(config.hidden_dropout)

    def forward(self, x_TD: Tensor, before: Sequence[int], places: Places) -> Tensor:
        """(T, D) -> (T', D)."""
        residual_TD = gated(self.residual_conv, self.residual_layer_norm(x_TD), before)
        x_TD = gated(self.self_attn_conv, self.self_attn_layer_norm(x_TD), before)
        x_TD = residual_TD + self.self_attn_dropout(self.self_attn(x_TD, places))
        return x_TD + self.dropout(self.ffn(self.ffn_layer_norm(x_TD)))


class OutputAdapter(nn.Module):
    """A projection, where the widths differ, and the layers."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config, width = config, config.output_width
        self.proj = self.proj_layer_norm = None
        if width != config.hidden_size:
            self.proj = Linear(config.hidden_size, width)
            self.proj_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps if config.log_mel else 1e-5)
        kind: Any = AdapterBlock if config.log_mel else AdapterConv
        self.layers = nn.ModuleList(kind(config) for _ in range(config.num_adapter_layers))

    def shortened(self, frames: Sequence[int], padding: int) -> list[int]:
        """Frames of each utterance after one convolution with so many zeros on either side."""
        config = self.config
        return [(n + 2 * padding - config.adapter_kernel_size) // config.adapter_stride + 1 for n in frames]

    def forward(self, x_TD: Tensor, places: Places) -> tuple[Tensor, Places]:
        """(T, D) and the frames of each utterance -> (T', D') and theirs."""
        if self.proj is not None and self.proj_layer_norm is not None:
            x_TD = self.proj_layer_norm(self.proj(x_TD))
        for layer in self.layers:
            before, frames = places.frames, self.shortened(places.frames, self.config.adapter_padding)
            whole = self.shortened(places.whole, self.config.adapter_kernel_size // 2)
            places = Places(frames, [min(pair) for pair in zip(whole, frames, strict=True)], None)
            x_TD = layer(x_TD, before, places)
        return x_TD, places
