"""BYOL-S (Elbanna et al. 2022; Niizumi et al. 2021): a spectrogram encoder whose frames are pooled to one vector a clip.

front-end (features.py) -> fixed normalisation -> encoder -> frames (B, T, D) -> mean over time + maximum over time.
The normalisation's two numbers are a buffer, so an embedding never depends on the other clips of a call. Encoders'
parameter names are those of the published weights. Architecture only: no training code here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry, Packed, pack, segments, starts
from speechssl.models.byols.cvt import CvT
from speechssl.models.byols.resnetish import ResNetish34
from speechssl.models.kernels.dropout import Dropout
from speechssl.models.kernels.norm import BatchNorm
from speechssl.models.kernels.products import Linear
from speechssl.models.protocol import Encoder
from speechssl.sound.features import BANDS, FLAVOURS, HOP, FlavourName, LogMel

MEL = Geometry(kernels=(HOP,), strides=(HOP,))  # a frame of the log-mels
ENCODERS = {"audiontt2020": 8, "audiontt2022": 4, "cvt": 16, "resnetish34": 16}  # mel frames (10 ms) per frame
SHORTEST = 2_560  # samples: one frame of the slowest encoder; shorter clips are padded with zeros
HEAR_WINDOW, HEAR_HOP = 16_000, 800  # samples
HEAR_BATCH = 256  # windows embedded together


@dataclass(frozen=True, kw_only=True)
class ByolsConfig:
    """BYOL-S architecture; the defaults are the published AudioNTT of 512 dimensions, 0.6 M weights."""

    model_type: ClassVar[str] = "byol-s"
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


def long_enough(wave_S: np.ndarray | Tensor) -> Tensor:
    """A wave as float32, padded with zeros if it is shorter than a frame of the slowest encoder."""
    wave_S = torch.as_tensor(wave_S, dtype=torch.float32)
    return F.pad(wave_S, (0, max(0, SHORTEST - len(wave_S))))


def waves_of(batch: Packed) -> list[Tensor]:
    """The waves (S,) of a batch."""
    spans = starts([-(-samples // HOP) * HOP for samples in batch.samples])
    return [batch.stream_N[start : start + samples] for start, samples in zip(spans, batch.samples, strict=True)]


def build_encoder(config: ByolsConfig) -> Any:
    """The encoder that a config names: (B, F, T) -> (B, T', D), with its `width` D."""
    if config.encoder == "cvt":
        return CvT(config.dims, config.heads, flat=config.pool == "mean+max")
    return ResNetish34() if config.encoder == "resnetish34" else AudioNTT(config)


class ByolsModel(Encoder):
    """Waves -> embeddings."""

    def __init__(self, config: ByolsConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.encoder = build_encoder(config)
        self.register_buffer("mel_stats", torch.tensor([0.0, 1.0]))
        self.mel_stats: Tensor

    @property
    def width(self) -> int:
        """D, numbers per frame."""
        return self.encoder.width

    @property
    def layers(self) -> int:
        """The frames are the one hidden state."""
        return 1

    @property
    def channels(self) -> int:
        """Mel bands."""
        return BANDS

    def stages(self) -> list[str]:
        """The encoder as a whole."""
        return ["encoder."]

    def stream(self, waves: Sequence[np.ndarray | Tensor]) -> Packed:
        """Waves (S,) as one stream on the CPU, whose frames are those of the log-mels but for the last."""
        return pack([long_enough(wave_S) for wave_S in waves], MEL)

    def mels(self, wave_BS: Tensor) -> Tensor:
        """(B, S) at 16 kHz -> normalised log-mel spectrograms (B, F, T)."""
        return (self.frontend(wave_BS) - self.mel_stats[0]) / self.mel_stats[1]

    @torch.no_grad()
    def settle(self, batch: Packed) -> None:
        """Set the normalisation of the log-mels. Those of speech spread over 3 to 5 nats: a spread below 1 is that of silence."""
        mels = torch.cat([self.frontend(wave_S[None]).flatten() for wave_S in waves_of(batch)])
        audible = mels > mels.amin() + 1e-3  # digital silence says nothing of speech
        chosen = mels[audible] if bool(audible.any()) else mels
        self.mel_stats.copy_(torch.stack([chosen.mean(), chosen.std().clamp_min(1.0)]))

    def pool(self, mean_D: Any, largest_D: Any) -> Any:
        """The sum of mean and maximum over time, or the mean."""
        return mean_D + largest_D if self.config.pool == "mean+max" else mean_D

    def embedding(self, frames_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        return self.pool(frames_BTD.mean(dim=1), frames_BTD.amax(dim=1))

    def forward(self, mel_BFT: Tensor) -> Tensor:
        """Normalised (B, F, T) -> embeddings (B, D)."""
        return self.embedding(self.encoder(mel_BFT))

    def states(self, waves: Sequence[np.ndarray | Tensor], layers: Sequence[int] | None = None) -> list[Tensor]:
        """Frames of each wave (S,), each wave by itself: (1, T, D)."""
        found = []
        for wave_S in waves:
            frames_1TD = self.encoder(self.mels(long_enough(wave_S).to(self.device)[None]))
            found.append(frames_1TD if layers is None else frames_1TD[list(layers)])
        return found

    def timestamps(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As in the HEAR module of BYOL-S: an embedding of each second, every 50 ms, the wave padded with half a second of
        zeros on both sides: (B, T, D), and the sample at the centre of each (T,)."""
        found = []
        for wave_S in waves:
            seconds_TS = F.pad(wave_S.float(), (HEAR_WINDOW // 2, HEAR_WINDOW // 2)).unfold(0, HEAR_WINDOW, HEAR_HOP)
            pieces = [self(self.mels(piece_TS.to(self.device))) for piece_TS in seconds_TS.split(HEAR_BATCH)]
            found.append(torch.cat(pieces))
        frames_BTD = torch.stack(found)
        return frames_BTD, torch.arange(frames_BTD.shape[1]) * HEAR_HOP

    def untrained(self) -> Encoder:
        """The same network with random weights and the normalisation of its log-mels."""
        fresh = ByolsModel(self.config)
        fresh.mel_stats.copy_(self.mel_stats)
        return fresh


class ByolsForSequenceClassification(ByolsModel):
    """The model with a linear layer from embeddings to classes. The batch norms keep the statistics of pretraining, so that a
    clip's logits never depend on the other clips of a batch, in training too."""

    head = "classes"

    def __init__(self, config: ByolsConfig, classes: int) -> None:
        super().__init__(config)
        self.dropout = Dropout(config.dropout)
        self.classifier = Linear(self.width, classes)
        self.train()

    def train(self, mode: bool = True) -> "ByolsForSequenceClassification":
        """Training mode, but not of the batch norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.eval()
        return self

    @torch.no_grad()
    def settle(self, batch: Packed) -> None:
        """Set the normalisation of the log-mels, and the statistics of the batch norms."""
        super().settle(batch)
        norms = [module.train() for module in self.modules() if isinstance(module, BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # the average of all clips
        self(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    def forward(
        self,
        batch: Packed,
        *,
        frozen: bool = False,
        mask_T: Tensor | None = None,
        channel_mask_BD: Tensor | None = None,
        **_options: Any,
    ) -> Tensor:
        """Logits (B, classes), float32. frozen: no gradient reaches the encoder. mask_T, channel_mask_BD: log-mel frames and
        bands that get the mean of the data. Options of transformers are ignored."""
        found = []
        for i, (wave_S, rows) in enumerate(zip(waves_of(batch), segments(batch.frames), strict=True)):
            mel_FT = self.mels(wave_S[None])[0]
            if mask_T is not None:
                mel_FT = mel_FT.masked_fill(F.pad(mask_T[rows], (0, 1)), 0.0)
            if channel_mask_BD is not None:
                mel_FT = mel_FT.masked_fill(channel_mask_BD[i, :, None], 0.0)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                found.append(self.embedding(self.encoder(mel_FT[None])))
        return self.classifier(self.dropout(torch.cat(found))).float()
