"""data2vec for speech (Baevski et al. 2022): the student predicts, from a masked utterance, what its teacher makes of all of it.

Targets are the outputs of the teacher's top feed-forward blocks, normalised over time and averaged. The teacher is a moving
average of the student's transformer; convolutions, projection and positional embedding are the student's own, as in the
published speech set-up. Everything is a sum over masked frames, and no number depends on batch mates.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.data.loader import Item
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.objectives import recipe as recipes
from speechssl.objectives.contrastive import upcast
from speechssl.objectives.ema import follow
from speechssl.objectives.frames import FrameObjective, MaskedBatch
from speechssl.objectives.protocol import Step, Verdict
from speechssl.objectives.recipe import DataConfig, OptimConfig

EPS = 1e-5  # added to the variance over time, as in torch's instance norm


@dataclass(frozen=True, kw_only=True)
class Data2VecObjectiveConfig:
    """Masking, teacher and loss; the defaults are the paper's BASE on LibriSpeech."""

    mask_prob: float = 0.65
    """Spans per frame times span length; 0.65 masks about 49 % of the frames."""
    mask_length: int = 10
    """Frames per span (20 ms each)."""
    top_layers: int = 8
    """K: how many of the teacher's last layers are averaged to the target."""
    loss_beta: float = 0.0
    """0: squared error. Above: smooth L1, quadratic where the error is less than this."""
    decay_start: float = 0.999
    """Share of the teacher that the first update keeps."""
    decay_end: float = 0.9999
    """Share of the teacher that an update keeps in the end."""
    decay_steps: int = 30_000
    """Updates in which the share moves from decay_start to decay_end."""
    feature_grad: float = 1.0
    """Factor on the gradient into the convolutional encoder."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_prob <= 1:
            raise InputError(f"objective.mask_prob = {self.mask_prob} is outside (0, 1]; the paper uses 0.65")
        for name, published in (("mask_length", 10), ("top_layers", 8), ("decay_steps", 30_000)):
            if getattr(self, name) < 1:
                raise InputError(
                    f"objective.{name} = {getattr(self, name)} must be at least 1; the paper uses {published}"
                )
        if not 0 <= self.decay_start <= self.decay_end <= 1:
            raise InputError(
                f"objective.decay_start = {self.decay_start} and objective.decay_end = {self.decay_end} must rise within [0, 1]; "
                "the paper uses 0.999 and 0.9999"
            )
        if self.loss_beta < 0 or self.feature_grad < 0:
            raise InputError("objective.loss_beta and objective.feature_grad cannot be negative")


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
        if self.model.conformer:
            raise InputError(
                f"model.model_type = {self.model.model_type!r}, but data2vec's targets are made of a transformer's feed-forward "
                "blocks; pretrain conformers with hubert or wav2vec2"
            )
        wanted, layers = self.objective.top_layers, self.model.num_hidden_layers
        if wanted > layers:
            raise InputError(
                f"objective.top_layers = {wanted}, but the network has {layers} transformer layers; the paper averages 8 of 12"
            )


def top_outputs(teacher: Any, x_TD: Tensor, frames: Sequence[int], top: int) -> Tensor:
    """What the feed-forward blocks of the last `top` layers add to their input: (K, T, D), the first of them first.

    Better targets than the layers' outputs, which hold the residual too (section 5.4, target feature type).
    """
    found: list[Tensor] = []
    blocks: list[Any] = list(teacher.layers)[-top:]
    hooks = [block.feed_forward.register_forward_hook(lambda *called: found.append(called[-1])) for block in blocks]
    try:
        teacher(x_TD, frames)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


def averaged(outputs_KTD: Tensor, frames: Sequence[int]) -> Tensor:
    """Targets (T, D): the mean of the layers, each at zero mean and unit variance over an utterance's frames in every channel."""
    targets = []
    for piece_KTD in upcast(outputs_KTD).split(list(frames), dim=1):
        centred_KTD = piece_KTD - piece_KTD.mean(dim=1, keepdim=True)
        variance_K1D = centred_KTD.square().mean(dim=1, keepdim=True)
        targets.append((centred_KTD / (variance_K1D + EPS).sqrt()).mean(dim=0))
    return torch.cat(targets)


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


class Data2Vec(FrameObjective):
    """Masked regression of a teacher's states. Teacher and regression head are training state."""

    Recipe = Recipe
    bar = {"loss": ".3f", "cosine": ".3f", "target_std": ".2f", "grad_norm": ".2f"}  # noqa: RUF012
    recipe: Recipe
    model: Wav2Vec2Encoder

    def __init__(self, recipe: Recipe, model: Wav2Vec2Encoder, *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        self.teacher = copy.deepcopy(model.wav2vec2.encoder).requires_grad_(False).eval()
        self.head = nn.Linear(model.width, model.width)

    def train(self, mode: bool = True) -> Self:
        """Training mode for everything but the teacher, which never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    def collate(self, items: Sequence[Item]) -> MaskedBatch:
        """Pack the waves; draw each utterance's mask from (seed, epoch, utterance)."""
        audio, masks = self.pack(items)
        mask_T = np.concatenate(masks)
        return MaskedBatch(
            audio=audio, mask_T=torch.from_numpy(mask_T), masked_M=torch.from_numpy(np.flatnonzero(mask_T))
        )

    def before_update(self, step: int, micros: Sequence[MaskedBatch]) -> frozenset[int]:
        """The layers that the student skips; the same on every rank."""
        return self.skip(step)

    def forward(self, batch: MaskedBatch, shared: frozenset[int]) -> Step:
        """Sum of the regression loss over the micro-batch's masked frames."""
        encoded = self.model.wav2vec2(
            batch.audio,
            batch.mask_T,
            feature_grad=self.recipe.objective.feature_grad,
            skip=shared,
            checkpointing=self.recipe.train.gradient_checkpointing,
        )
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
        x_TD = self.model.wav2vec2.feature_projection.projection(normed_TC)
        return averaged(top_outputs(self.teacher, x_TD, frames, self.recipe.objective.top_layers), frames)

    @torch.no_grad()
    def after_update(self, step: int, shared: frozenset[int]) -> None:
        """Move the teacher's layers towards the student's; its positional embedding is a copy of the student's."""
        config, student = self.recipe.objective, self.model.wav2vec2.encoder
        done = min(1.0, (step + 1) / config.decay_steps)
        follow(self.teacher, student, config.decay_start + (config.decay_end - config.decay_start) * done)
        self.teacher.pos_conv_embed.load_state_dict(student.pos_conv_embed.state_dict())

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
