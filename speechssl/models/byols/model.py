"""BYOL-S (Elbanna et al. 2022; Niizumi et al. 2021): a spectrogram encoder whose frames are pooled to one vector a clip.

front-end (features.py) -> fixed normalisation -> encoder -> frames (B, T, D) -> mean over time + maximum over time.
The normalisation's two numbers are a buffer, so an embedding never depends on the other clips of a call. Encoders'
parameter names are those of the published weights. Architecture only: no training code here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry
from speechssl.models.byols.cvt import CvT
from speechssl.models.byols.resnetish import ResNetish34
from speechssl.models.kernels.dropout import Dropout
from speechssl.models.kernels.norm import BatchNorm
from speechssl.models.kernels.products import Linear
from speechssl.sound.features import BANDS, FLAVOURS, HOP, FlavourName, LogMel

ENCODERS = {"audiontt2020": 8, "audiontt2022": 4, "cvt": 16, "resnetish34": 16}  # mel frames (10 ms) per frame
SHORTEST = 2_560  # samples: one frame of the slowest encoder; shorter clips are padded with zeros


@dataclass(frozen=True, kw_only=True)
class ByolsConfig:
    """BYOL-S architecture; the defaults are the published AudioNTT of 512 dimensions, 0.6 M weights."""

    encoder: Literal["audiontt2020", "audiontt2022", "cvt", "resnetish34"] = "audiontt2020"
    """audiontt2020: 3 convolutions and 2 linear maps (BYOL-A, BYOL-S). audiontt2022: BYOL-A version 2. cvt: the best
    published BYOL-S. resnetish34: 21 M weights."""
    frontend: FlavourName = "byol-s"
    """Log-mel flavour that the weights belong to."""
    width: int = 512
    """AudioNTT: size of the embedding (published: 512, 1024, 2048; audiontt2022: 3072)."""
    channels: int = 64
    """AudioNTT: channels of the convolutions."""
    dropout: float = 0.3
    """AudioNTT: dropout between the linear maps."""
    dims: tuple[int, int, int] = (64, 256, 512)
    """CvT: width of each stage (published: 64-256-512 and 64-128-256)."""
    heads: tuple[int, int, int] = (1, 3, 6)
    """CvT: attention heads of each stage, 64 wide each."""
    pool: Literal["mean+max", "mean"] = "mean+max"
    """Over time: the sum of mean and maximum, or the mean; CvT then averages its mel rows too."""

    def __post_init__(self) -> None:
        for name, known in (("encoder", ENCODERS), ("frontend", FLAVOURS), ("pool", ("mean+max", "mean"))):
            if getattr(self, name) not in known:
                raise InputError(f"model.{name} = {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name in ("width", "channels"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} = {getattr(self, name)} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout = {self.dropout} is outside [0, 1): it is a probability")
        if self.encoder == "audiontt2022" and self.width <= self.channels * BANDS // 4:
            raise InputError(
                f"model.width = {self.width} must be above {self.channels * BANDS // 4}, the convolutions' part of "
                "audiontt2022's embedding; published: 3072"
            )

    @cached_property
    def geometry(self) -> Geometry:
        """Samples from frame to frame, and the shortest clip worth embedding (one window)."""
        return Geometry(kernels=(400,), strides=(ENCODERS[self.encoder] * HOP,))

    num_hidden_layers = 0  # the frames are the one hidden state


class AudioNTT(nn.Module):
    """Convolutions that halve both axes, then two linear maps per frame (Niizumi et al. 2021, table 1).

    2020: three convolutions, the linear maps' output. 2022: two, and their output stands beside that of the linear maps.
    """

    def __init__(self, config: ByolsConfig) -> None:
        super().__init__()
        self.concat = config.encoder == "audiontt2022"
        blocks, layers = 2 if self.concat else 3, []
        for index in range(blocks):
            conv = nn.Conv2d(config.channels if index else 1, config.channels, 3, padding=1)
            layers += [conv, BatchNorm(config.channels), nn.MaxPool2d(2), nn.ReLU()]  # either order gives the same
        self.features = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # 1.6 to 2.6 times as fast
        flat = config.channels * BANDS // 2**blocks
        hidden = config.width - flat if self.concat else config.width
        self.fc = nn.Sequential(
            Linear(flat, hidden), nn.ReLU(), Dropout(config.dropout), Linear(hidden, hidden), nn.ReLU()
        )
        self.width = config.width

    def forward(self, mel_BFT: Tensor) -> Tensor:
        """(B, F, T) -> (B, T / 8, D), or (B, T / 4, D)."""
        x_BTD = self.features(mel_BFT[:, None]).permute(0, 3, 2, 1).flatten(2)
        y_BTD = self.fc(x_BTD)
        return torch.cat([x_BTD, y_BTD], dim=2) if self.concat else y_BTD


def build_encoder(config: ByolsConfig) -> Any:
    """The encoder that a config names: (B, F, T) -> (B, T', D), with its `width` D."""
    if config.encoder == "cvt":
        return CvT(config.dims, config.heads, flat=config.pool == "mean+max")
    return ResNetish34() if config.encoder == "resnetish34" else AudioNTT(config)


def pool(frames_BTD: Tensor, kind: str) -> Tensor:
    """(B, T, D) -> (B, D)."""
    mean_BD = frames_BTD.mean(dim=1)
    return mean_BD + frames_BTD.amax(dim=1) if kind == "mean+max" else mean_BD


class ByolsModel(nn.Module):
    """Waves -> embeddings."""

    def __init__(self, config: ByolsConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.encoder = build_encoder(config)
        self.register_buffer("mel_stats", torch.tensor([0.0, 1.0]))
        self.mel_stats: Tensor

    def mels(self, wave_BS: Tensor) -> Tensor:
        """(B, S) at 16 kHz -> normalised log-mel spectrograms (B, F, T)."""
        return (self.frontend(wave_BS) - self.mel_stats[0]) / self.mel_stats[1]

    def pool(self, frames_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        return pool(frames_BTD, self.config.pool)

    def forward(self, mel_BFT: Tensor) -> Tensor:
        """Normalised (B, F, T) -> embeddings (B, D)."""
        return self.pool(self.encoder(mel_BFT))

    def hidden_states(self, waves: Sequence[np.ndarray | Tensor]) -> list[Tensor]:
        """Per clip (S,) at 16 kHz: its frames (1, T, D), each clip by itself."""
        device, found = self.mel_stats.device, []
        for wave_S in waves:
            wave_1S = torch.as_tensor(wave_S, dtype=torch.float32, device=device)[None]
            wave_1S = F.pad(wave_1S, (0, max(0, SHORTEST - wave_1S.shape[1])))
            found.append(self.encoder(self.mels(wave_1S)))
        return found
