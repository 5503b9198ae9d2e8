"""What the training loop asks of an objective: sums and a count, never means."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Item:
    """One training example as the loader hands it over.

    wave_S: float32 mono 16 kHz. id: the utterance. epoch: how often the corpus was passed through before.
    """

    wave_S: np.ndarray
    id: str
    epoch: int
    text: str = ""
    speaker: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one micro-batch contributes.

    loss: scalar to differentiate, the SUM over the micro-batch. sums: metric name -> (numerator, denominator), tensors
    or numbers that add up over micro-batches and ranks; the reported metric is their quotient.
    """

    loss: Tensor
    sums: dict[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)


class Objective(Protocol):
    """An nn.Module that trains its `model`; everything random in it is a function of (seed, step or epoch, utterance)."""

    model: Any

    def collate(self, items: Sequence[Item]) -> Any:
        """Examples -> micro-batch, on the CPU in a loader worker; it has `.to(device)` and an int `.count`."""
        ...

    def start_step(self, step: int) -> None:
        """Set whatever depends on the update number: temperature, dropped layers, freezing. Idempotent."""
        ...

    def pool(self, batches: Sequence[Any]) -> None:
        """Before an update of several micro-batches: gather the statistics that must be averaged over all of them."""
        ...

    def forward(self, batch: Any) -> Step:
        """The micro-batch's share of the loss; the loop divides by the count of all micro-batches of all ranks."""
        ...

    def after_step(self) -> None:
        """After the optimiser's step: a moving average, a memory."""
        ...
