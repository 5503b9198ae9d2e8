"""What the objectives over the frames of a wav2vec 2.0 network share: its start, span masks and layer drop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from speechssl.core.noise import noise_key
from speechssl.core.packed import Packed
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.wav2vec2.checkpoint import copy_body
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder, streamed
from speechssl.objectives import recipe as recipes
from speechssl.objectives.masking import skipped_layers, span_mask
from speechssl.objectives.protocol import Batch, Objective


@dataclass(frozen=True, kw_only=True)
class MaskedBatch(Batch):
    """mask_T: whether a frame is masked. masked_M: the numbers of those."""

    mask_T: Tensor
    masked_M: Tensor

    @property
    def count(self) -> int:
        """Masked frames of all utterances."""
        return len(self.masked_M)


class FrameObjective(Objective):
    """An objective whose network is one of the wav2vec 2.0 family, with masked frames and skipped layers."""

    Network: ClassVar[type[Wav2Vec2Encoder]] = Wav2Vec2Encoder  # body and head that `build` makes

    @classmethod
    def build(cls, recipe: Any, start: Checkpoint | None, rows: Sequence[Manifest]) -> Self:
        recipe = recipes.sized_as(recipe, start)
        model = cls.Network(recipe.model)
        fresh = start is None or not start.state
        if start is not None and not fresh:
            copy_body(model, start)
        return cls(recipe, model, fresh=fresh)

    def pack(self, items: Sequence[Item]) -> tuple[Packed, list[np.ndarray]]:
        """(packed waves, each utterance's span mask (T,), drawn from (seed, epoch, utterance))."""
        config = self.recipe.objective
        audio = streamed([item.wave_S for item in items], self.model.config)
        masks = []
        for item, frames in zip(items, audio.frames, strict=True):
            masks.append(span_mask(frames, config.mask_prob, config.mask_length, self.key("mask", item)))
        return audio, masks

    def key(self, purpose: str, item: Item) -> int:
        """Seed of one kind of noise for one utterance in one epoch."""
        return noise_key(purpose, self.recipe.train.seed, item.epoch, item.id)

    def skip(self, step: int) -> frozenset[int]:
        """The layers that update `step` leaves out; none in evaluation."""
        if not self.training:
            return frozenset()
        config = self.model.config
        return skipped_layers(config.num_hidden_layers, config.layerdrop, self.recipe.train.seed, step)
