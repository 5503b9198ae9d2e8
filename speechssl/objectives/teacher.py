"""What the objectives with a teacher share (data2vec, DinoSR): the teacher follows the network that learns, and its feed-forward
blocks, normalised over time, are what the student predicts from a masked utterance.

The teacher is a moving average of the student's transformer; convolutions, projection and positional embedding are the
student's own, as in the published speech set-ups. No number depends on batch mates.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.data.loader import Item
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.objectives import recipe as recipes
from speechssl.objectives.contrastive import upcast
from speechssl.objectives.ema import follow
from speechssl.objectives.frames import FrameObjective, MaskedBatch

EPS = 1e-5  # added to the variance over time, as in torch's instance norm


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Masking and teacher; the defaults are those of data2vec BASE on LibriSpeech."""

    mask_prob: float = 0.65
    """Spans per frame times span length; 0.65 masks about 49 % of the frames."""
    mask_length: int = 10
    """Frames per span (20 ms each)."""
    top_layers: int = 8
    """K: how many of the teacher's last layers are targets."""
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
            raise InputError(f"objective.mask_prob = {self.mask_prob} is outside (0, 1]; the papers use 0.65 and 0.8")
        for name, published in (("mask_length", 10), ("top_layers", 8), ("decay_steps", 30_000)):
            if getattr(self, name) < 1:
                raise InputError(
                    f"objective.{name} = {getattr(self, name)} must be at least 1; the papers use {published}"
                )
        if not 0 <= self.decay_start <= self.decay_end <= 1:
            raise InputError(
                f"objective.decay_start = {self.decay_start} and objective.decay_end = {self.decay_end} must rise within [0, 1]; "
                "the papers use 0.999 and 0.9999"
            )
        if self.feature_grad < 0:
            raise InputError("objective.feature_grad cannot be negative")

    def check(self, model: Wav2Vec2Config) -> None:
        """InputError for a network that cannot be a teacher."""
        if model.conformer:
            raise InputError(
                f"model.model_type = {model.model_type!r}, but the targets are made of a transformer's feed-forward "
                "blocks; pretrain conformers with hubert or wav2vec2"
            )
        if self.top_layers > model.num_hidden_layers:
            raise InputError(
                f"objective.top_layers = {self.top_layers}, but the network has {model.num_hidden_layers} transformer layers; "
                "the papers take 8 of 12"
            )


def block_outputs(teacher: Any, x_TD: Tensor, frames: Sequence[int], top: int) -> Tensor:
    """What the feed-forward blocks of the last `top` layers add to their input: (K, T, D), the first of them first.

    Better targets than the layers' outputs, which hold the residual too (data2vec, section 5.4, target feature type).
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


def normalised(outputs_KTD: Tensor, frames: Sequence[int]) -> Tensor:
    """The same at zero mean and unit variance over an utterance's frames, in every layer and channel."""
    pieces = []
    for piece_KTD in upcast(outputs_KTD).split(list(frames), dim=1):
        centred_KTD = piece_KTD - piece_KTD.mean(dim=1, keepdim=True)
        variance_K1D = centred_KTD.square().mean(dim=1, keepdim=True)
        pieces.append(centred_KTD / (variance_K1D + EPS).sqrt())
    return torch.cat(pieces, dim=1)


class TaughtObjective(FrameObjective):
    """An objective with a teacher, which is training state."""

    model: Wav2Vec2Encoder

    def __init__(self, recipe: recipes.Recipe, model: Wav2Vec2Encoder, *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        self.teacher = copy.deepcopy(model.wav2vec2.encoder).requires_grad_(False).eval()

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

    def encoded(self, batch: MaskedBatch, skip: frozenset[int]) -> Any:
        """What the student makes of the masked batch."""
        return self.model.wav2vec2(
            batch.audio,
            batch.mask_T,
            feature_grad=self.recipe.objective.feature_grad,
            skip=skip,
            checkpointing=self.recipe.train.gradient_checkpointing,
        )

    @torch.no_grad()
    def blocks(self, normed_TC: Tensor, frames: Sequence[int]) -> Tensor:
        """The teacher's normalised blocks (K, T, D) from the student's convolutional features, nothing masked or dropped."""
        x_TD = self.model.wav2vec2.feature_projection.projection(normed_TC)
        return normalised(block_outputs(self.teacher, x_TD, frames, self.recipe.objective.top_layers), frames)

    @torch.no_grad()
    def after_update(self, step: int, shared: Any) -> None:
        """Move the teacher's layers towards the student's; its positional embedding is a copy of the student's."""
        config, student = self.recipe.objective, self.model.wav2vec2.encoder
        done = min(1.0, (step + 1) / config.decay_steps)
        follow(self.teacher, student, config.decay_start + (config.decay_end - config.decay_start) * done)
        self.teacher.pos_conv_embed.load_state_dict(student.pos_conv_embed.state_dict())
