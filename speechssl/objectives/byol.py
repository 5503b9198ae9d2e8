"""BYOL on spectrograms (Niizumi et al. 2021; BYOL-S: Elbanna et al. 2022): two views of a crop, one predicts the other.

Online network (encoder, projector, predictor) against a target network (encoder, projector) that follows it as a moving
average of its parameters; each keeps batch-norm statistics of its own. Hybrid BYOL-S adds a head that predicts handcrafted
features of the clean crop. Batch norms, post-norm and memory bank see the whole update: N processes equal one.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.core.packed import pack
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest
from speechssl.models.byols.folder import build
from speechssl.models.byols.model import MEL, ByolsConfig, ByolsModel
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.kernels.norm import BatchNorm, standardised
from speechssl.objectives import recipe as recipes
from speechssl.objectives.ema import follow
from speechssl.objectives.handcrafted import TARGETS
from speechssl.objectives.protocol import TRAINING, Batch, Objective, Step, Verdict
from speechssl.objectives.recipe import DataConfig, OptimConfig, TrainConfig
from speechssl.objectives.views import ViewConfig, draw, view
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.sound.features import BANDS, HOP

CUT = "cut long recordings into many rows: `speechssl prepare SRC --out x.tsv --max-seconds 10`"


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
    """Handcrafted features that the embedding must predict too (Hybrid BYOL-S): librosa is free; egemaps and compare need
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
class Recipe(recipes.Recipe):
    """BYOL-S pretraining; the defaults are the published ones: batches of 512 crops, AdamW with a constant rate."""

    kind: Literal["byol-s"] = "byol-s"
    """The objective."""
    model: ByolsConfig = field(default_factory=ByolsConfig)
    objective: ByolObjectiveConfig = field(default_factory=ByolObjectiveConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_seconds=486.4, micro_seconds=1e6, crop_seconds=0.95, min_seconds=0.2)
    )
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=3e-4, betas=(0.9, 0.999), eps=1e-8, warmup=0.0, power=0.0)
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=154_300))

    def __post_init__(self) -> None:
        if not self.data.crop_seconds > 0:
            raise InputError("data.crop_seconds must be above 0: BYOL-S learns from crops of one length; it uses 0.95")


@dataclass(frozen=True, kw_only=True)
class ByolBatch(Batch):
    """audio: crops of one length. draws_BVK: random numbers of the two views (objectives/views.py). targets_BK:
    handcrafted features, K = 0 without a hybrid target."""

    draws_BVK: Tensor
    targets_BK: Tensor


class Shared(NamedTuple):
    """mel_BFT: the normalised log-mels of this rank's crops. draws_BVK: as in the batch."""

    mel_BFT: Tensor
    draws_BVK: Tensor


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Projector and predictor (Grill et al. 2020, section 3.2)."""
    return nn.Sequential(nn.Linear(inputs, hidden), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def regression(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """2 - 2 cos per clip (Grill et al. 2020, equation 2), in float32: (B,)."""
    return 2 - 2 * F.cosine_similarity(predicted_BD.float(), target_BD.float(), dim=1)


def spread(x_BD: Tensor, own_rank: bool = False) -> Tensor:
    """Standard deviation of unit vectors over the clips of all ranks (`own_rank`: of this one), times sqrt(D): 1 when
    they fill their space, 0 when they have collapsed."""
    unit_BD = F.normalize(x_BD.float(), dim=1)
    sums_2D, n = torch.stack([unit_BD.sum(dim=0), unit_BD.square().sum(dim=0)]), float(len(unit_BD))
    mean_D, power_D = sums_2D / n if own_rank else dist.all_sum(sums_2D) / dist.all_sum_float(n)
    return (power_D - mean_D.square()).clamp_min(0).sqrt().mean() * x_BD.shape[1] ** 0.5


def fitted(wave_S: np.ndarray, samples: int) -> np.ndarray:
    """Exactly `samples`: the first ones of a longer wave, a shorter one with zeros on both sides."""
    room = max(0, samples - len(wave_S))
    return np.pad(wave_S[:samples], (room // 2, room - room // 2))


class Byol(Objective):
    """BYOL-S on crops of one length. The predictor and all else outside `model` is training state."""

    Recipe = Recipe
    families = ("byol-s",)
    bar = {"loss": ".3f", "spread": ".2f", "hybrid": ".2f", "grad_norm": ".2f"}  # noqa: RUF012
    whole_updates = True
    recipe: Recipe
    model: ByolsModel

    def __init__(self, recipe: Recipe, model: ByolsModel, *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        config = recipe.objective
        self.samples = round(recipe.data.crop_seconds * SAMPLE_RATE)
        self.frames = self.samples // HOP + 1
        self.projector = mlp(model.width, config.hidden, config.projection)
        self.predictor = mlp(config.projection, config.hidden, config.projection)
        self.target = copy.deepcopy(nn.ModuleList([model.encoder, self.projector])).requires_grad_(False)
        kinds = len(TARGETS[config.hybrid].names())
        self.hybrid = mlp(model.width, config.hidden, kinds) if kinds else None
        self.register_buffer("hybrid_stats_2K", torch.stack([torch.zeros(kinds), torch.ones(kinds)]))
        self.register_buffer("bank_MFT", torch.zeros(config.bank, BANDS, self.frames))
        self.register_buffer("bank_seen", torch.zeros((), dtype=torch.long))
        self.hybrid_stats_2K: Tensor
        self.bank_MFT: Tensor
        self.bank_seen: Tensor
        self._ddp_params_and_buffers_to_ignore = ["bank_MFT", "bank_seen"]  # equal on all ranks already

    @classmethod
    def build(cls, recipe: Any, start: Checkpoint | None, rows: Sequence[Manifest]) -> Self:
        """A network of the recipe's sizes, or of those of `start` and with its weights if it has any."""
        if recipe.objective.hybrid in ("egemaps", "compare"):
            dist.report(
                "the licence of openSMILE forbids commercial use, also of what this run learns; objective.hybrid = librosa is "
                "free"
            )
        if start is not None:
            recipe = replace(recipe, model=replace(start.config, dropout=recipe.model.dropout))
        if start is None or not start.state:
            return cls(recipe, ByolsModel(recipe.model))
        return cls(recipe, build(replace(start, config=recipe.model)), fresh=False)

    def usable(self, rows: Manifest, part: str) -> Manifest:
        """All rows; InputError for a single one, since BYOL compares clips."""
        data = self.recipe.data
        crops = int(data.batch_seconds / data.crop_seconds)
        if part == TRAINING and len(rows) < 2:
            raise InputError(f"{part}: BYOL compares clips, and there is only one; {CUT}")
        if part == TRAINING and len(rows) < crops:
            dist.report(f"{part}: an update hears {len(rows)} crops, one of each row, not {crops}; {CUT}")
        return rows

    @torch.no_grad()
    def initialise(self, first: Callable[[], ByolBatch]) -> None:
        """Fix the normalisation of hybrid targets and, unless the model has learned with its own, of log-mels: the statistics
        of a first batch."""
        if not (self.fresh or self.hybrid):
            return
        batch = first()
        if self.fresh:
            self.model.settle(batch.audio)
        if self.hybrid is not None:
            self.hybrid_stats_2K[0] = batch.targets_BK.mean(dim=0)
            self.hybrid_stats_2K[1] = batch.targets_BK.std(dim=0, correction=0).clamp_min(1e-3)

    def collate(self, items: Sequence[Item]) -> ByolBatch:
        """Crops of one length; each one's views are drawn from (seed, epoch, utterance), its target computed."""
        config = self.recipe.objective
        crops = [fitted(item.wave_S, self.samples) for item in items]
        draws = []
        for item in items:
            rng = np.random.default_rng(noise_key("views", self.recipe.train.seed, item.epoch, item.id))
            draws.append([draw(config.views, BANDS, self.frames, rng) for _ in range(2)])
        target = TARGETS[config.hybrid]
        targets = np.stack([target.compute(crop) for crop in crops]).astype(np.float32)
        return ByolBatch(
            audio=pack(crops, MEL), draws_BVK=torch.from_numpy(np.array(draws)), targets_BK=torch.from_numpy(targets)
        )

    def waves(self, batch: ByolBatch) -> Tensor:
        """The crops as (B, S)."""
        return batch.audio.stream_N.view(batch.count, self.samples)

    @torch.no_grad()
    def before_update(self, step: int, micros: Sequence[ByolBatch]) -> Shared:
        """The log-mels of the update's crops: both views are made of them, and the memory bank gets them."""
        (batch,) = micros
        return Shared(self.model.mels(self.waves(batch)), batch.draws_BVK)

    def views(self, shared: Shared) -> tuple[Tensor, ...]:
        """The two views of the log-mels, (B, F, T) each."""
        config = self.recipe.objective
        canvas = int(config.views.canvas * self.frames)
        filled = self.bank_seen.clamp_max(len(self.bank_MFT))
        draws = shared.draws_BVK.unbind(1)
        both_BFT = torch.cat([view(shared.mel_BFT, self.bank_MFT, filled, draws_BK, canvas) for draws_BK in draws])
        if config.post_norm:
            both_BFT = standardised(both_BFT, own_rank=not self.training)
        return both_BFT.chunk(2)

    def forward(self, batch: ByolBatch, shared: Shared) -> Step:
        """Sum over the crops of both directions' regression, and of the hybrid loss. Only in training do processes have to
        call it together."""
        with torch.no_grad():
            pair = self.views(shared)
            targets = [self.target[1](self.model.embedding(self.target[0](view_BFT))) for view_BFT in pair]
        embeddings = [self.model(view_BFT) for view_BFT in pair]
        predicted = [self.predictor(self.projector(embedding_BD)) for embedding_BD in embeddings]
        byol = (regression(predicted[0], targets[1]) + regression(predicted[1], targets[0])).sum()
        hybrid = self.hybrid_loss(embeddings, batch)
        sums: dict[str, tuple[Tensor | float, Tensor | float]] = {"byol": (byol.detach(), batch.count)}
        sums["spread"] = (spread(targets[0], own_rank=not self.training) * batch.count, batch.count)
        if self.hybrid is not None:
            sums["hybrid"] = (hybrid.detach(), batch.count)
        return Step(loss=byol + self.recipe.objective.hybrid_weight * hybrid, sums=sums)

    def hybrid_loss(self, embeddings: Sequence[Tensor], batch: ByolBatch) -> Tensor:
        """Squared error of the standardised handcrafted features, mean over features and views, sum over crops."""
        if self.hybrid is None:
            return embeddings[0].new_zeros(())
        wanted_BK = ((batch.targets_BK - self.hybrid_stats_2K[0]) / self.hybrid_stats_2K[1]).clamp(-10, 10)
        errors = [(self.hybrid(embedding_BD).float() - wanted_BK).square().mean(dim=1) for embedding_BD in embeddings]
        return torch.stack(errors).mean(dim=0).sum()

    @torch.no_grad()
    def after_update(self, step: int, shared: Shared) -> None:
        """Move the target network, and put the update's crops of all processes into the memory bank."""
        follow(self.target, nn.ModuleList([self.model.encoder, self.projector]), self.recipe.objective.tau)
        mel_BFT, draws_BVK = (dist.all_gather(x.contiguous()) for x in shared)
        order_B = draws_BVK[:, 0, 1].argsort()  # random, and the same however the update was split over ranks
        places_B = (self.bank_seen + torch.arange(len(order_B), device=order_B.device)) % len(self.bank_MFT)
        last = slice(-len(self.bank_MFT), None)
        self.bank_MFT[places_B[last]] = mel_BFT[order_B[last]]
        self.bank_seen += len(order_B)

    def verdict(self, line: dict[str, Any]) -> Verdict | None:
        """Collapsed when all clips have the same target."""
        if line["step"] <= max(50, self.recipe.train.steps // 20) or line["spread"] > 0.02:
            return None
        return Verdict(
            f"the targets have collapsed to one point (spread {line['spread']:.3f} of 1) at update {line['step']}; raise "
            "objective.tau, the batch, or lower optim.lr",
            fatal=True,
        )

    def origin(self) -> dict[str, Any]:
        """Which handcrafted features were predicted too."""
        return {"hybrid": self.recipe.objective.hybrid}
