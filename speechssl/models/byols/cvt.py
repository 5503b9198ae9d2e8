"""The convolutional transformer of BYOL-S (CvT, Wu et al. 2021, in the sizes of the BYOL-S weights).

Parameters have the names of the published weights. As published, the channel norm divides by the standard deviation; a tiny
constant under the root keeps its gradient finite on silence, where that of the original is NaN.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.kernels.norm import BatchNorm

HEAD_WIDTH = 64
STAGES = ((7, 4, 3), (3, 2, 1), (3, 2, 1))  # kernel, stride, padding of each stage's convolution


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, F, T)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, width, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F, T)."""
        centred = x - x.mean(dim=1, keepdim=True)
        std = (centred.square().mean(dim=1, keepdim=True) + 1e-10).sqrt()
        return centred / (std + 1e-5) * self.g + self.b


class PreNorm(nn.Module):
    """x + fn(norm(x))."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = ChannelNorm(width), fn

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F, T)."""
        return x + self.fn(self.norm(x))


class Projection(nn.Module):
    """Depthwise 3 x 3 convolution, batch norm, 1 x 1 convolution: how CvT makes queries, keys and values."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            BatchNorm(width),
            nn.Conv2d(width, out, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, H, F * T, HEAD_WIDTH) per output of H heads."""
        return self.net(x).flatten(2).unflatten(1, (-1, HEAD_WIDTH)).mT


class Attention(nn.Module):
    """Each position of the map attends to the positions in every second row and column."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.to_q = Projection(width, heads * HEAD_WIDTH, stride=1)
        self.to_kv = Projection(width, 2 * heads * HEAD_WIDTH, stride=2)
        self.to_out = nn.Sequential(nn.Conv2d(heads * HEAD_WIDTH, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F, T)."""
        key, value = self.to_kv(x).chunk(2, dim=1)
        mixed = F.scaled_dot_product_attention(self.to_q(x), key, value)
        return self.to_out(mixed.mT.flatten(1, 2).unflatten(2, x.shape[2:]))


class FeedForward(nn.Module):
    """Two 1 x 1 convolutions with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Identity(), nn.Conv2d(4 * width, width, 1), nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F, T)."""
        return self.net(x)


class Transformer(nn.Module):
    """Blocks of attention and feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        blocks = (PreNorm(width, Attention(width, heads)), PreNorm(width, FeedForward(width)))
        self.layers = nn.ModuleList([nn.ModuleList(blocks)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F, T)."""
        for attention, feed_forward in self.layers:  # type: ignore[misc]
            x = feed_forward(attention(x))
        return x


class CvT(nn.Module):
    """Three stages of convolution, norm and one transformer block; a frame is 160 ms."""

    def __init__(self, dims: Sequence[int], heads: Sequence[int], flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.width = dims[-1] * (4 if flat else 1)
        stages, inputs = [], 1
        for width, count, (kernel, stride, padding) in zip(dims, heads, STAGES, strict=True):
            conv = nn.Conv2d(inputs, width, kernel, stride, padding)
            stages.append(nn.Sequential(conv, ChannelNorm(width), Transformer(width, count)))
            inputs = width
        self.layers = nn.Sequential(*stages)

    def forward(self, mel_BFT: Tensor) -> Tensor:
        """(B, F, T) -> (B, T / 16, D): the four mel rows side by side (`flat`), or their mean."""
        x = self.layers(mel_BFT[:, None])
        return x.transpose(1, 2).flatten(1, 2).mT if self.flat else x.mean(dim=2).mT
