"""DinoSR (Liu et al. 2023): the student predicts, from a masked utterance, in which cluster its teacher puts a frame.

Each of the teacher's top layers has a codebook of its own, learned online: a code is the moving average of the frames that
are nearest to it (section 2.3). With `own_layers` each layer of the student predicts the codes of the same layer of the
teacher (SpidR, Poli et al. 2025), else the last one predicts them all. Sums over masked frames, as in data2vec.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.objectives import recipe as recipes
from speechssl.objectives.contrastive import upcast
from speechssl.objectives.frames import MaskedBatch
from speechssl.objectives.protocol import Step, Verdict
from speechssl.objectives.recipe import DataConfig, OptimConfig
from speechssl.objectives.teacher import TaughtObjective, TeacherConfig


@dataclass(frozen=True, kw_only=True)
class DinoSRObjectiveConfig(TeacherConfig):
    """Masking, teacher and codebooks; the defaults are the paper's BASE on LibriSpeech."""

    mask_prob: float = 0.8
    """Spans per frame times span length; 0.8 masks about 55 % of the frames."""
    codes: int = 256
    """V: codes in the codebook of each layer."""
    code_decay: float = 0.9
    """Share of a code's moving average that an update keeps."""
    freeze_step: int = 200_000
    """Update from which the teacher's layers stay as they are."""
    own_layers: bool = False
    """Whether each layer of the student predicts the codes of the same layer of the teacher, as in SpidR."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes < 2:
            raise InputError(f"objective.codes = {self.codes} must be at least 2; the paper uses 256")
        if not 0 <= self.code_decay < 1:
            raise InputError(f"objective.code_decay = {self.code_decay} is outside [0, 1); the paper uses 0.9")


@dataclass(frozen=True, kw_only=True)
class Recipe(recipes.Recipe):
    """DinoSR pretraining; the defaults are the paper's BASE on LibriSpeech but for the network's positional embedding."""

    kind: Literal["dinosr"] = "dinosr"
    """The objective."""
    model: Wav2Vec2Config = field(
        default_factory=lambda: Wav2Vec2Config(
            feat_extract_norm="layer", do_normalize=True, feat_proj_dropout=0.0, layerdrop=0.05
        )
    )
    objective: DinoSRObjectiveConfig = field(default_factory=DinoSRObjectiveConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_seconds=3800.0, micro_seconds=237.5, crop_seconds=20.0)
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(schedule="tri-stage", warmup=0.03, hold=0.47))

    def __post_init__(self) -> None:
        self.objective.check(self.model)


class DinoSR(TaughtObjective):
    """Masked prediction of online codes. Codebooks and output layers are training state.

    sums_KVD, counts_KV: the moving sum and number of the frames of each code; their quotient is the code.
    """

    Recipe = Recipe
    bar = {"loss": ".3f", "accuracy": ".3f", "code_perplexity": ".1f", "grad_norm": ".2f"}  # noqa: RUF012
    recipe: Recipe

    def __init__(self, recipe: Recipe, model: Wav2Vec2Encoder, *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        layers, codes = recipe.objective.top_layers, recipe.objective.codes
        self.heads = nn.ModuleList(nn.Linear(model.width, codes) for _ in range(layers))
        self.register_buffer("sums_KVD", torch.randn(layers, codes, model.width))
        self.register_buffer("counts_KV", torch.ones(layers, codes))
        self.sums_KVD: Tensor
        self.counts_KV: Tensor
        self.new: list[tuple[Tensor, Tensor]] = []  # sums and counts of the update's micro-batches

    @torch.no_grad()
    def initialise(self, first: Callable[[], MaskedBatch]) -> None:
        """Let codes begin as frames of a first batch, as far as these go, so that they are not far from all frames and lost."""
        batch = first()
        normed_TC = self.model.wav2vec2(batch.audio).normed_TC
        blocks_KTD = self.blocks(normed_TC, batch.audio.frames)
        order_T = np.random.default_rng(self.recipe.train.seed).permutation(blocks_KTD.shape[1])
        some_V = torch.from_numpy(order_T[: self.recipe.objective.codes])
        self.sums_KVD[:, : len(some_V)] = blocks_KTD[:, some_V]

    def forward(self, batch: MaskedBatch, shared: frozenset[int]) -> Step:
        """Sum over the micro-batch's masked frames of the cross-entropy, the mean over codebooks."""
        encoded = self.encoded(batch, shared)
        blocks_KMD = self.blocks(encoded.normed_TC, batch.audio.frames).index_select(1, batch.masked_M)
        codes_KM = self.nearest(blocks_KMD)
        if self.training:
            self.new.append(self.statistics(blocks_KMD, codes_KM))
        states = encoded.states[-len(self.heads) :] if self.recipe.objective.own_layers else [encoded.states[-1]]
        with torch.autocast(blocks_KMD.device.type, enabled=False):
            seen = [upcast(state_TD.index_select(0, batch.masked_M)) for state_TD in states]
            if (
                self.recipe.objective.own_layers
            ):  # those between the first and the last are normalised in no other place
                seen = [F.layer_norm(state_MD, state_MD.shape[1:]) for state_MD in seen]
            scores_KMV = torch.stack([head(seen[layer % len(seen)]) for layer, head in enumerate(self.heads)])
            loss = F.cross_entropy(scores_KMV.flatten(0, 1), codes_KM.flatten(), reduction="sum") / len(self.heads)
        right = (scores_KMV.detach().argmax(dim=2) == codes_KM).float().mean(dim=0).sum()
        sums: dict[str, Any] = {"accuracy": (right, batch.count)}
        if self.training:  # the use of codes is that of all updates so far
            sums["code_perplexity"] = (perplexity(self.counts_KV) * batch.count, batch.count)
        return Step(loss=loss, sums=sums)

    @torch.no_grad()
    def nearest(self, x_KMD: Tensor) -> Tensor:
        """The code of each frame in each codebook (K, M)."""
        codes_KVD = self.sums_KVD / self.counts_KV[:, :, None]
        with torch.autocast(x_KMD.device.type, enabled=False):
            return (codes_KVD.square().sum(dim=2)[:, None] - 2 * x_KMD @ codes_KVD.mT).argmin(dim=2)

    @torch.no_grad()
    def statistics(self, x_KMD: Tensor, codes_KM: Tensor) -> tuple[Tensor, Tensor]:
        """The sum (K, V, D) and the number (K, V) of the frames of each code."""
        sums_KVD, counts_KV = torch.zeros_like(self.sums_KVD), torch.zeros_like(self.counts_KV)
        sums_KVD.scatter_add_(1, codes_KM[:, :, None].expand_as(x_KMD), x_KMD)
        counts_KV.scatter_add_(1, codes_KM, torch.ones_like(codes_KM, dtype=counts_KV.dtype))
        return sums_KVD, counts_KV

    def before_update(self, step: int, micros: Sequence[MaskedBatch]) -> frozenset[int]:
        """The layers that the student skips; the same on every rank."""
        self.new = []
        return super().before_update(step, micros)

    @torch.no_grad()
    def after_update(self, step: int, shared: Any) -> None:
        """Move teacher and codes; a code without frames stays as it is."""
        if step < self.recipe.objective.freeze_step:
            super().after_update(step, shared)
        new_KVD = dist.all_sum(torch.stack([sums_KVD for sums_KVD, _ in self.new]).sum(dim=0))
        new_KV = dist.all_sum(torch.stack([counts_KV for _, counts_KV in self.new]).sum(dim=0))
        share_KV = torch.where(new_KV > 0, 1 - self.recipe.objective.code_decay, 0.0)
        self.counts_KV.lerp_(new_KV, share_KV)
        self.sums_KVD.lerp_(new_KVD, share_KV[:, :, None])

    def verdict(self, line: dict[str, Any]) -> Verdict | None:
        """Collapsed when a few codes take all frames, long after the start."""
        if line["step"] < 1000 or line["code_perplexity"] > min(4.0, self.recipe.objective.codes / 4):
            return None
        return Verdict(
            f"the codes have collapsed ({line['code_perplexity']:.1f} of {self.recipe.objective.codes} are in use at update "
            f"{line['step']}); lower optim.lr, or raise optim.warmup or objective.decay_start",
            fatal=True,
        )


def perplexity(counts_KV: Tensor) -> Tensor:
    """How many codes would be in use if all were used alike, the mean over codebooks."""
    share_KV = counts_KV / counts_KV.sum(dim=1, keepdim=True)
    return (-(share_KV * share_KV.clamp_min(1e-9).log()).sum(dim=1)).exp().mean()
