"""data2vec for speech (Baevski et al. 2022): the student predicts, from a masked utterance, what its teacher makes of all of it.

Targets are the outputs of the teacher's top feed-forward blocks, normalised over time and averaged. The teacher is a moving
average of the student's transformer; convolutions, projection and positional embedding are the student's own, as in the
published speech set-up. Everything is a sum over masked frames, and no number depends on batch mates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
class Data2VecObjectiveConfig(TeacherConfig):
    """Masking, teacher and loss; the defaults are the paper's BASE on LibriSpeech."""

    loss_beta: float = 0.0
    """0: squared error. Above: smooth L1, quadratic where the error is less than this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_beta < 0:
            raise InputError("objective.loss_beta cannot be negative")


@dataclass(frozen=True, kw_only=True)
class Recipe(recipes.Recipe):
    """data2vec pretraining; the defaults are the paper's BASE on LibriSpeech but for the network's positional embedding."""

    kind: Literal["data2vec"] = "data2vec"
    """The objective."""
    model: Wav2Vec2Config = field(
        default_factory=lambda: Wav2Vec2Config(feat_extract_norm="layer", do_normalize=True, feat_proj_dropout=0.0)
    )
    objective: Data2VecObjectiveConfig = field(default_factory=Data2VecObjectiveConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_seconds=3800.0, micro_seconds=237.5, crop_seconds=20.0)
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(schedule="tri-stage", warmup=0.03, hold=0.9))

    def __post_init__(self) -> None:
        self.objective.check(self.model)


def regression(predicted_MD: Tensor, target_MD: Tensor, beta: float) -> Tensor:
    """Error of each frame, summed over its D numbers and divided by the root of D, as published: summed over frames."""
    if beta:
        error = F.smooth_l1_loss(predicted_MD, target_MD, reduction="sum", beta=beta)
    else:
        error = F.mse_loss(predicted_MD, target_MD, reduction="sum")
    return error * predicted_MD.shape[1] ** -0.5


def spread(x_MD: Tensor) -> Tensor:
    """Standard deviation over frames, the mean over channels."""
    return x_MD.detach().std(dim=0, correction=0).mean()


class Data2Vec(TaughtObjective):
    """Masked regression of a teacher's states. The regression head is training state too."""

    Recipe = Recipe
    bar = {"loss": ".3f", "cosine": ".3f", "target_std": ".2f", "grad_norm": ".2f"}  # noqa: RUF012
    recipe: Recipe

    def __init__(self, recipe: Recipe, model: Wav2Vec2Encoder, *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        self.head = nn.Linear(model.width, model.width)

    def forward(self, batch: MaskedBatch, shared: frozenset[int]) -> Step:
        """Sum of the regression loss over the micro-batch's masked frames."""
        encoded = self.encoded(batch, shared)
        target_MD = self.targets(encoded.normed_TC, batch.audio.frames).index_select(0, batch.masked_M)
        with torch.autocast(target_MD.device.type, enabled=False):
            predicted_MD = self.head(upcast(encoded.states[-1].index_select(0, batch.masked_M)))
            loss = regression(predicted_MD, target_MD, self.recipe.objective.loss_beta)
        cosine = F.cosine_similarity(predicted_MD.detach(), target_MD, dim=1).sum()
        n = batch.count
        return Step(
            loss=loss,
            sums={
                "target_std": (spread(target_MD) * n, n),
                "prediction_std": (spread(predicted_MD) * n, n),
                "cosine": (cosine, n),
            },
        )

    @torch.no_grad()
    def targets(self, normed_TC: Tensor, frames: Sequence[int]) -> Tensor:
        """The teacher's targets (T, D) from the student's convolutional features, nothing masked and nothing dropped."""
        return self.blocks(normed_TC, frames).mean(dim=0)

    def verdict(self, line: dict[str, Any]) -> Verdict | None:
        """Collapsed when targets or, later, predictions hardly change over time any more; the published limits."""
        step = line["step"]
        if step > max(200, int(self.recipe.optim.warmup * self.recipe.train.steps)) and line["target_std"] < 0.1:
            collapsed = f"the targets have collapsed (standard deviation {line['target_std']:.3f}"
        elif step > 5000 and line["prediction_std"] < 0.01:
            collapsed = f"the predictions have collapsed (standard deviation {line['prediction_std']:.3f}"
        else:
            return None
        message = f"{collapsed}) at update {step}; lower optim.lr, or raise optim.warmup or objective.decay_start"
        return Verdict(message, fatal=True)
