"""The door for objectives: the base class whose hooks are all that set-up and the training loop use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from torch import Tensor, nn

from speechssl.core.packed import Movable, Packed
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest, Utterance
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.families import of_network
from speechssl.models.protocol import Encoder
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.objectives import recipe as recipes
from speechssl.text.tokenizer import CharTokenizer

TRAINING, VALIDATION = "training data", "validation data"
WAV2VEC2_FAMILIES = of_network(Wav2Vec2Config)


@dataclass(frozen=True, kw_only=True)
class Batch(Movable):
    """A micro-batch: the packed utterances, and in a subclass whatever else the objective needs of them."""

    audio: Packed

    @property
    def count(self) -> int:
        """What the loss sum is divided by, after it is summed over micro-batches and ranks: utterances."""
        return len(self.audio.samples)

    @property
    def seconds(self) -> float:
        """Audio in the micro-batch."""
        return sum(self.audio.samples) / self.audio.rate


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one micro-batch contributes.

    loss: scalar to differentiate, the SUM over the micro-batch. sums: metric name -> (numerator, denominator), tensors
    or numbers that add up over micro-batches and ranks; the reported metric is their quotient.
    """

    loss: Tensor
    sums: dict[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)


class Verdict(NamedTuple):
    """What is wrong with a run, and whether going on is pointless."""

    message: str
    fatal: bool


class Objective(nn.Module, ABC):
    """Trains `model`. Everything random is a function of (seed, step or epoch, utterance); sums, never means, leave it.

    In the order of their use: `build`, `usable`, `initialise`; per micro-batch `labels` and `collate`, in a loader's
    worker; per update `before_update`, `forward`, `after_update`; per line of the log `verdict`. Only `build`, `collate` and
    `forward` must be written, the other hooks do nothing unless overridden.

    Parameters and buffers outside `model` (a predictor, a teacher) are training state: saved for --resume, not part of
    the model.
    """

    Recipe: ClassVar[type[recipes.Recipe]]
    verb: ClassVar[str] = "pretrain"  # the verb that runs it: pretrain, or finetune if it needs labels
    families: ClassVar[tuple[str, ...]] = WAV2VEC2_FAMILIES  # the networks that it can start from
    bar: ClassVar[dict[str, str]] = {"loss": ".3f"}  # metrics of the progress line and their formats
    score: ClassVar[str] = "loss"  # the validation metric that is lowest in the best checkpoint
    whole_updates: ClassVar[bool] = False  # statistics over a whole update: a rank's share is never cut
    from_scratch: ClassVar[dict[str, Any]] = {}  # recipe values that differ by default with --from-scratch
    tokenizer: CharTokenizer | None = None

    def __init__(self, recipe: recipes.Recipe, model: Encoder, *, fresh: bool = True) -> None:
        """recipe: whose sizes are those of `model`. fresh: whether the model's weights are random, not those of --init."""
        super().__init__()
        self.recipe, self.model, self.fresh = recipe, model, fresh

    @classmethod
    @abstractmethod
    def build(cls, recipe: Any, start: Checkpoint | None, rows: Sequence[Manifest]) -> Self:
        """The objective around a network: of the recipe's sizes, or of the sizes of `start` and with its weights if it has
        any. rows: training data, then validation data if there is any (for a vocabulary, a number of speakers)."""

    def usable(self, rows: Manifest, part: str) -> Manifest:
        """The rows that can be used, out of those of at least data.min_seconds; reports how many are left out, and why.
        part: TRAINING or VALIDATION. InputError when none is left."""
        return rows

    def initialise(self, first: Callable[[], Batch]) -> None:
        """Set whatever depends on the data before update 0 of a new run. first: loads the first micro-batch."""

    def labels(self, utterance: Utterance) -> np.ndarray | None:
        """Labels of an utterance, which `collate` finds as `item.labels`, or of all its frames; it gets those of its crop by
        `item.frame_labels(hop, frames)`."""
        return None

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> Any:
        """Items to a Batch, on the CPU, in a loader's worker."""

    def before_update(self, step: int, micros: Sequence[Any]) -> Any:
        """What the micro-batches of update `step` share: schedules, skipped layers, statistics of the whole update. Given to
        `forward` and `after_update`. In validation it is called for each micro-batch by itself, and must not use
        collectives: ranks may have different numbers of them."""
        return None

    @abstractmethod
    def forward(self, batch: Any, shared: Any) -> Step:
        """The micro-batch's share of the loss, a sum, and of the metrics."""

    def after_update(self, step: int, shared: Any) -> None:
        """After the optimiser's step: move a teacher, fill a memory."""

    def verdict(self, line: dict[str, Any]) -> Verdict | None:
        """Judge a line of the log: collapsed (fatal) or slow. A verdict that is not fatal is reported once."""
        return None

    def rates(self) -> dict[str, float]:
        """Parameters, by the start of their names, whose learning rate is a multiple of the recipe's."""
        return {}

    def origin(self) -> dict[str, Any]:
        """What config.json shall record of the objective besides its kind, seed and steps."""
        return {}
