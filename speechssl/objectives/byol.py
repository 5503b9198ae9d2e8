"""BYOL on spectrograms (Niizumi et al. 2021; BYOL-S: Elbanna et al. 2022): two views of a crop, one predicts the other.

Online network (encoder, projector, predictor) against a target network (encoder, projector) that follows it as a moving
average of its parameters; each keeps batch-norm statistics of its own. Hybrid BYOL-S adds a head that tells handcrafted
features of the clean crop. Batch norms, post-norm and memory bank see the whole update: N processes equal one.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.core.packed import Geometry, Movable, Packed, pack
from speechssl.models.byols.model import ByolsModel
from speechssl.models.kernels.norm import BatchNorm, standardised
from speechssl.objectives.handcrafted import TARGETS
from speechssl.objectives.protocol import Item, Step
from speechssl.objectives.views import ViewConfig, draw, view
from speechssl.sound.features import BANDS, HOP

MEL = Geometry(kernels=(HOP,), strides=(HOP,))


@dataclass(frozen=True, kw_only=True)
class ByolObjectiveConfig:
    """Heads, moving average, views and the hybrid target; the defaults are BYOL-S's."""

    hidden: int = 4096
    """Width inside projector and predictor."""
    projection: int = 256
    """Width in which views are compared."""
    tau: float = 0.99
    """Share of the target network that an update keeps."""
    bank: int = 2048
    """Clips that the memory bank of the mix-up holds."""
    post_norm: bool = True
    """Bring the two views of an update to zero mean and unit variance together."""
    hybrid: Literal["none", "librosa", "egemaps", "compare"] = "none"
    """Handcrafted features that the embedding must tell too (Hybrid BYOL-S): librosa's are free; egemaps and compare need
    `pip install 'speechssl[opensmile]'`, whose licence forbids commercial use."""
    hybrid_weight: float = 1.0
    """Weight of the hybrid loss, a mean squared error of standardised features."""
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise InputError(f"objective.tau = {self.tau} is outside [0, 1]; BYOL-S uses 0.99")
        for name in ("hidden", "projection", "bank"):
            if getattr(self, name) < 1:
                raise InputError(f"objective.{name} = {getattr(self, name)} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ByolBatch(Movable):
    """audio: crops of one length, end to end. draws_BVK: random numbers of the two views (objectives/views.py).
    targets_BK: handcrafted features, K = 0 without a hybrid target."""

    audio: Packed
    draws_BVK: Tensor
    targets_BK: Tensor

    @property
    def count(self) -> int:
        """Crops: what the loss is divided by."""
        return len(self.draws_BVK)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Projector and predictor (Grill et al. 2020, section 3.2)."""
    return nn.Sequential(nn.Linear(inputs, hidden), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def regression(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """2 - 2 cos per clip (Grill et al. 2020, equation 2), in float32: (B,)."""
    return 2 - 2 * F.cosine_similarity(predicted_BD.float(), target_BD.float(), dim=1)


def spread(x_BD: Tensor, alone: bool = False) -> Tensor:
    """Standard deviation of unit vectors over the clips of all processes, or of this one, times sqrt(D): 1 when they fill
    their space, 0 when they have collapsed."""
    unit_BD = F.normalize(x_BD.float(), dim=1)
    sums_2D, n = torch.stack([unit_BD.sum(dim=0), unit_BD.square().sum(dim=0)]), float(len(unit_BD))
    mean_D, power_D = sums_2D / n if alone else dist.all_sum(sums_2D) / dist.all_sum_float(n)
    return (power_D - mean_D.square()).clamp_min(0).sqrt().mean() * x_BD.shape[1] ** 0.5


def centred_crop(wave_S: np.ndarray, samples: int) -> np.ndarray:
    """Exactly `samples`: a shorter wave gets zeros on both sides."""
    room = max(0, samples - len(wave_S))
    return np.pad(wave_S[:samples], (room // 2, room - room // 2))


class ByolObjective(nn.Module):
    """Train `model` by BYOL on crops of `samples` each. The predictor and everything else below is training state."""

    def __init__(self, model: ByolsModel, config: ByolObjectiveConfig, seed: int, samples: int) -> None:
        super().__init__()
        self.model, self.config, self.seed, self.samples = model, config, seed, samples
        self.frames = samples // HOP + 1
        width = model.encoder.width
        self.projector = mlp(width, config.hidden, config.projection)
        self.predictor = mlp(config.projection, config.hidden, config.projection)
        self.target = copy.deepcopy(nn.ModuleList([model.encoder, self.projector])).requires_grad_(False)
        kinds = len(TARGETS[config.hybrid].names())
        self.hybrid = mlp(width, config.hidden, kinds) if kinds else None
        self.register_buffer("hybrid_stats_2K", torch.stack([torch.zeros(kinds), torch.ones(kinds)]))
        self.register_buffer("bank_MFT", torch.zeros(config.bank, BANDS, self.frames))
        self.register_buffer("bank_seen", torch.zeros((), dtype=torch.long))
        self.hybrid_stats_2K: Tensor
        self.bank_MFT: Tensor
        self.bank_seen: Tensor
        self.heard: tuple[Tensor, Tensor] | None = None
        self._ddp_params_and_buffers_to_ignore = ["bank_MFT", "bank_seen"]  # equal on all ranks already

    def collate(self, items: Sequence[Item]) -> ByolBatch:
        """Crops of one length; each one's views are drawn from (seed, epoch, utterance), its target computed."""
        crops = [centred_crop(item.wave_S, self.samples) for item in items]
        draws = []
        for item in items:
            rng = np.random.default_rng(noise_key("views", self.seed, item.epoch, item.id))
            draws.append([draw(self.config.views, BANDS, self.frames, rng) for _ in range(2)])
        target = TARGETS[self.config.hybrid]
        targets = np.stack([target.compute(crop) for crop in crops]).astype(np.float32)
        return ByolBatch(
            audio=pack(crops, MEL), draws_BVK=torch.from_numpy(np.array(draws)), targets_BK=torch.from_numpy(targets)
        )

    @torch.no_grad()
    def initialise(self, batch: ByolBatch, fresh: bool = True) -> None:
        """Fix the normalisation of hybrid targets and, unless the model has learned with its own, of log-mels: the statistics
        of a first batch. Log-mels of speech spread over 3 to 5 nats: a spread below 1 is that of silence."""
        if fresh:
            mel_BFT = self.model.frontend(self.waves(batch))
            heard = mel_BFT > mel_BFT.amin() + 1e-3  # digital silence says nothing of speech
            chosen = mel_BFT[heard] if bool(heard.any()) else mel_BFT
            self.model.mel_stats.copy_(torch.stack([chosen.mean(), chosen.std().clamp_min(1.0)]))
        if self.hybrid is not None:
            self.hybrid_stats_2K[0] = batch.targets_BK.mean(dim=0)
            self.hybrid_stats_2K[1] = batch.targets_BK.std(dim=0, correction=0).clamp_min(1e-3)

    def start_step(self, step: int) -> None:
        """Nothing depends on the update number."""

    def pool(self, batches: Sequence[ByolBatch]) -> None:
        """Batch norms must see a whole update, so it cannot be cut into micro-batches: InputError."""
        needed = sum(sum(batch.audio.samples) for batch in batches) / 16_000
        raise InputError(
            f"BYOL normalises over whole updates, so data.micro_seconds must hold one process's share ({needed:.0f} s); "
            "raise it, lower data.batch_seconds, or start more processes"
        )

    def waves(self, batch: ByolBatch) -> Tensor:
        """The crops as (B, S)."""
        return batch.audio.stream_N.view(batch.count, self.samples)

    def views(self, batch: ByolBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised log-mels (B, F, T) and their two views."""
        mel_BFT = self.model.mels(self.waves(batch))
        canvas = int(self.config.views.canvas * self.frames)
        filled = self.bank_seen.clamp_max(len(self.bank_MFT))
        both = [view(mel_BFT, self.bank_MFT, filled, draws_BK, canvas) for draws_BK in batch.draws_BVK.unbind(1)]
        both_BFT = torch.cat(both)
        one_BFT, two_BFT = (
            standardised(both_BFT, alone=not self.training) if self.config.post_norm else both_BFT
        ).chunk(2)
        return mel_BFT, one_BFT, two_BFT

    def forward(self, batch: ByolBatch) -> Step:
        """Sum over the crops of both directions' regression, and of the hybrid loss. Only in training do processes have to
        call it together."""
        with torch.no_grad():
            mel_BFT, *pair = self.views(batch)
            targets = [self.target[1](self.model.pool(self.target[0](view_BFT))) for view_BFT in pair]
        embeddings = [self.model(view_BFT) for view_BFT in pair]
        predicted = [self.predictor(self.projector(embedding_BD)) for embedding_BD in embeddings]
        byol = (regression(predicted[0], targets[1]) + regression(predicted[1], targets[0])).sum()
        hybrid = self.hybrid_loss(embeddings, batch)
        if self.training:
            self.heard = mel_BFT, batch.draws_BVK
        sums: dict[str, tuple[Tensor | float, Tensor | float]] = {"byol": (byol.detach(), batch.count)}
        sums["spread"] = (spread(targets[0], alone=not self.training) * batch.count, batch.count)
        if self.hybrid is not None:
            sums["hybrid"] = (hybrid.detach(), batch.count)
        return Step(loss=byol + self.config.hybrid_weight * hybrid, sums=sums)

    def hybrid_loss(self, embeddings: Sequence[Tensor], batch: ByolBatch) -> Tensor:
        """Squared error of the standardised handcrafted features, mean over features and views, sum over crops."""
        if self.hybrid is None:
            return embeddings[0].new_zeros(())
        wanted_BK = ((batch.targets_BK - self.hybrid_stats_2K[0]) / self.hybrid_stats_2K[1]).clamp(-10, 10)
        errors = [(self.hybrid(embedding_BD).float() - wanted_BK).square().mean(dim=1) for embedding_BD in embeddings]
        return torch.stack(errors).mean(dim=0).sum()

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target network, and put the update's crops of all processes into the memory bank."""
        online = nn.ModuleList([self.model.encoder, self.projector])
        torch._foreach_lerp_(list(self.target.parameters()), list(online.parameters()), 1 - self.config.tau)
        if self.heard is None:
            return
        mel_BFT, draws_BVK = (dist.all_gather(x.contiguous()) for x in self.heard)
        order_B = draws_BVK[:, 0, 1].argsort()  # random, and the same however the update was dealt out
        places_B = (self.bank_seen + torch.arange(len(order_B), device=order_B.device)) % len(self.bank_MFT)
        last = slice(-len(self.bank_MFT), None)
        self.bank_MFT[places_B[last]] = mel_BFT[order_B[last]]
        self.bank_seen += len(order_B)
        self.heard = None
