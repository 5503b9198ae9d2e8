"""HuBERT (Hsu et al. 2021, section II): cross-entropy of the clusters of frames that the network does not see.

The codes come from `speechssl cluster`, one file for all utterances; a crop takes those of its own frames. With several
codebooks (section II.C, cluster ensembles) the loss is their mean, each with an output layer of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.data.codes import FrameCodes, by_hand
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest, Utterance
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.objectives import recipe as recipes
from speechssl.objectives.contrastive import upcast
from speechssl.objectives.frames import FrameObjective, MaskedBatch
from speechssl.objectives.protocol import Step, Verdict
from speechssl.objectives.recipe import DataConfig, OptimConfig


@dataclass(frozen=True, kw_only=True)
class HubertObjectiveConfig:
    """Targets, masking and loss; the defaults are the paper's BASE on LibriSpeech."""

    codes: str = ""
    """The file of codes that `speechssl cluster` wrote for the training data, and for the validation data if there is any."""
    mask_prob: float = 0.8
    """Spans per frame times span length; 0.8 masks about 55 % of the frames."""
    mask_length: int = 10
    """Frames per span (20 ms each)."""
    unmasked_weight: float = 0.0
    """Weight of the cross-entropy at the frames that are not masked."""
    code_dim: int = 256
    """Width in which a frame and the embeddings of the codes are compared (0: the frame as it is, without a projection)."""
    temperature: float = 0.1
    """Divides the cosine similarities."""
    feature_grad: float = 0.1
    """Factor on the gradient into the convolutional encoder."""
    growing: int = 0
    """Updates in which the transformer grows from no layer to all of them (0: whole from the start). A small run on a CPU saves
    by it: until the convolutions have found a spectrum, layers above them have nothing to learn."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_prob <= 1:
            raise InputError(f"objective.mask_prob = {self.mask_prob} is outside (0, 1]; the paper uses 0.8")
        if self.mask_length < 1:
            raise InputError(f"objective.mask_length = {self.mask_length} must be at least 1; the paper uses 10")
        recipes.positive("objective", self, "temperature")
        if min(self.code_dim, self.unmasked_weight, self.feature_grad, self.growing) < 0:
            raise InputError("objective.code_dim, unmasked_weight, feature_grad and growing cannot be negative")


@dataclass(frozen=True, kw_only=True)
class Recipe(recipes.Recipe):
    """HuBERT pretraining; the defaults are the paper's BASE on LibriSpeech."""

    kind: Literal["hubert"] = "hubert"
    """The objective."""
    model: Wav2Vec2Config = field(default_factory=lambda: Wav2Vec2Config(model_type="hubert"))
    objective: HubertObjectiveConfig = field(default_factory=HubertObjectiveConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(batch_seconds=2800.0, micro_seconds=87.5))
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True, kw_only=True)
class CodedBatch(MaskedBatch):
    """codes_TCV: the codes of each frame, V votes in each codebook. seen_N: the numbers of the frames that are not masked."""

    codes_TCV: Tensor
    seen_N: Tensor


class CodeHead(nn.Module):
    """Logits of the codes of one codebook: cosine similarities of a projected frame and the codes' embeddings (equation 3)."""

    def __init__(self, width: int, dim: int, codes: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.projection = nn.Linear(width, dim) if dim else nn.Identity()
        self.embeddings_KE = nn.Parameter(torch.rand(codes, dim or width))

    def forward(self, x_MD: Tensor) -> Tensor:
        """(M, D) -> (M, K)."""
        frames_ME = F.normalize(self.projection(x_MD), dim=1)
        return frames_ME @ F.normalize(self.embeddings_KE, dim=1).T / self.temperature


class Hubert(FrameObjective):
    """Masked prediction of codes. The output layers are training state."""

    Recipe = Recipe
    bar = {"loss": ".3f", "masked": ".3f", "accuracy": ".3f", "grad_norm": ".2f"}  # noqa: RUF012
    score = "masked"
    recipe: Recipe
    model: Wav2Vec2Encoder

    def __init__(self, recipe: Recipe, model: Wav2Vec2Encoder, *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        config = recipe.objective
        if not config.codes:
            raise InputError(f"objective.codes names no file of codes; make one: {by_hand(Path('codes.parquet'))}")
        self.codes = FrameCodes(Path(config.codes))
        if self.codes.hop != model.geometry.hop:
            raise InputError(
                f"{config.codes} has a code every {self.codes.hop} samples, and this network a frame every "
                f"{model.geometry.hop}; cluster features of the same rate"
            )
        heads = [CodeHead(model.width, config.code_dim, size, config.temperature) for size in self.codes.sizes]
        self.heads = nn.ModuleList(heads)

    def usable(self, rows: Manifest, part: str) -> Manifest:
        """The rows, if all have codes."""
        missing = [name for name in rows.cells("id") if name not in self.codes]
        if missing:
            raise InputError(
                f"{part}: {len(missing)} of {len(rows)} utterances have no codes in {self.recipe.objective.codes}, the first is "
                f"{missing[0]!r}; cluster all manifests of a run together"
            )
        return rows

    def labels(self, utterance: Utterance) -> np.ndarray:
        """The codes of the whole utterance (T, C, V)."""
        return self.codes[utterance.id]

    def collate(self, items: Sequence[Item]) -> CodedBatch:
        """Pack the waves; draw each utterance's mask from (seed, epoch, utterance); take the codes of its frames."""
        audio, masks = self.pack(items)
        hop = self.model.geometry.hop
        codes = [item.frame_labels(hop, frames) for item, frames in zip(items, audio.frames, strict=True)]
        mask_T = np.concatenate(masks)
        return CodedBatch(
            audio=audio,
            mask_T=torch.from_numpy(mask_T),
            masked_M=torch.from_numpy(np.flatnonzero(mask_T)),
            seen_N=torch.from_numpy(np.flatnonzero(~mask_T)),
            codes_TCV=torch.from_numpy(np.concatenate(codes).astype(np.int64)),
        )

    def before_update(self, step: int, micros: Sequence[CodedBatch]) -> frozenset[int]:
        """The layers that the update skips, the same on every rank: those dropped by chance, and those still to come."""
        layers, growing = self.model.config.num_hidden_layers, self.recipe.objective.growing
        depth = layers if step >= growing else step * (layers + 1) // growing
        return self.skip(step) | frozenset(range(depth, layers))

    def forward(self, batch: CodedBatch, shared: frozenset[int]) -> Step:
        """Sum of the cross-entropy over the micro-batch's masked frames, and the weighted one over the others."""
        config = self.recipe.objective
        encoded = self.model.wav2vec2(
            batch.audio,
            batch.mask_T,
            feature_grad=config.feature_grad,
            skip=shared,
            checkpointing=self.recipe.train.gradient_checkpointing,
        )
        loss, correct = self.cross_entropy(encoded.states[-1], batch.codes_TCV, batch.masked_M)
        sums: dict[str, tuple[Any, Any]] = {"masked": (loss.detach(), batch.count), "accuracy": (correct, batch.count)}
        if config.unmasked_weight:
            seen, _ = self.cross_entropy(encoded.states[-1], batch.codes_TCV, batch.seen_N)
            loss = loss + config.unmasked_weight * seen
            sums["seen"] = (seen.detach(), len(batch.seen_N))
        return Step(loss=loss, sums=sums)

    def cross_entropy(self, state_TD: Tensor, codes_TCV: Tensor, rows_M: Tensor) -> tuple[Tensor, Tensor]:
        """(sum over some frames of the mean over codebooks and votes, how many votes of the first codebook are guessed)."""
        with torch.autocast(state_TD.device.type, enabled=False):
            state_MD, codes_MCV = upcast(state_TD.index_select(0, rows_M)), codes_TCV.index_select(0, rows_M)
            scores = [head(state_MD).log_softmax(dim=1) for head in self.heads]
            losses = [-x_MK.gather(1, codes_MCV[:, c]).mean(dim=1).sum() for c, x_MK in enumerate(scores)]
        guess_M1 = scores[0].detach().argmax(dim=1, keepdim=True)
        return torch.stack(losses).mean(), (guess_M1 == codes_MCV[:, 0]).float().mean(dim=1).sum()

    def verdict(self, line: dict[str, Any]) -> Verdict | None:
        """Slow when masked frames are guessed no better than by one code for all, long after the warm-up."""
        step, recipe = line["step"], self.recipe
        if step < max(2000, 2 * recipe.optim.warmup * recipe.train.steps) or line["accuracy"] > 0.03:
            return None
        return Verdict(
            f"slow: {line['accuracy']:.1%} of the masked codes are right after {step} updates; raise optim.lr, set "
            "objective.unmasked_weight = 0.5, or check that the codes belong to this audio",
            fatal=False,
        )

    def origin(self) -> dict[str, Any]:
        """What was clustered, and how finely."""
        return {"targets": self.codes.source, "clusters": list(self.codes.sizes)}
