"""Tells a collapsed pretraining run from one that is merely slow to start.

The curves are the masked accuracies that BASE reached for different batch sizes (arXiv 2402.13723, validation, K = 100),
so that a learner can be compared with what others saw after the same number of updates.
"""

import bisect
from dataclasses import dataclass
from typing import Any, NamedTuple

UPDATES = (5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000)
PUBLISHED = {  # seconds of audio per update -> accuracy after so many updates
    87.5: (0.150, 0.163, 0.231, 0.276, 0.306, 0.348, 0.390),
    150.0: (0.144, 0.161, 0.250, 0.307, 0.340, 0.381, 0.427),
    300.0: (0.140, 0.212, 0.276, 0.339, 0.380, 0.422, 0.463),
    600.0: (0.175, 0.234, 0.309, 0.379, 0.423, 0.467, 0.502),
    1200.0: (0.202, 0.263, 0.340, 0.421, 0.463, 0.500, 0.529),
    2400.0: (0.244, 0.308, 0.384, 0.480, 0.513, 0.538, 0.554),
    4800.0: (0.252, 0.322, 0.416, 0.506, 0.536, 0.555, 0.563),
}


def published_accuracy(batch_seconds: float, updates: int) -> float | None:
    """Accuracy that BASE had after so many updates at the nearest published batch; None before the first point."""
    if updates < UPDATES[0]:
        return None
    nearest = min(PUBLISHED, key=lambda seconds: abs(seconds - batch_seconds))
    return PUBLISHED[nearest][bisect.bisect_right(UPDATES, updates) - 1]


class Verdict(NamedTuple):
    """What is wrong, and whether going on is pointless."""

    message: str
    fatal: bool


@dataclass(kw_only=True)
class Health:
    """Watches the log lines of a pretraining run.

    batch_seconds: audio per update. entries: V, entries per codebook. warmup: updates in which nothing is judged.
    """

    batch_seconds: float
    entries: int
    warmup: int
    told: bool = False

    def __call__(self, line: dict[str, Any]) -> Verdict | None:
        """A verdict when the run has collapsed, or once when it is slow; None while all is well."""
        if line["step"] <= self.warmup:
            return None
        if message := self.collapsed(line):
            return Verdict(message, fatal=True)
        if message := self.slow(line):
            return Verdict(message, fatal=False)
        return None

    def collapsed(self, line: dict[str, Any]) -> str | None:
        """Advice when nothing can be learned any more."""
        if line["code_perplexity"] < min(2.0, 0.1 * self.entries):
            return (
                f"the codebooks have collapsed: code perplexity {line['code_perplexity']:.2f} of {self.entries} at update "
                f"{line['step']}, so nothing is left to tell apart; raise objective.diversity_weight, set "
                "objective.logit_spread = 4, or lower optim.lr"
            )
        if line["target_std"] < 1e-4:
            return (
                f"the targets have collapsed to one point (standard deviation {line['target_std']:.1e}) at update "
                f"{line['step']}; lower optim.lr or raise objective.penalty_weight"
            )
        if line["accuracy"] > 0.999:
            return (
                f"contrastive accuracy {line['accuracy']:.4f} at update {line['step']}: the task has become trivial, which "
                "real speech never is; look for silent or repeated audio, lower optim.lr or raise "
                "objective.diversity_weight"
            )
        return None

    def slow(self, line: dict[str, Any]) -> str | None:
        """Said once: a run near chance after the updates in which published runs had long left it."""
        expected = published_accuracy(self.batch_seconds, line["step"])
        if self.told or expected is None or line["accuracy"] > expected / 3:
            return None
        self.told = True
        return (
            f"slow, not collapsed: accuracy {line['accuracy']:.3f} after {line['step']} updates and "
            f"{line['hours_heard']:.1f} h heard, where BASE with about {self.batch_seconds:.0f} s per update had "
            f"{expected:.2f}. Quality follows hours heard: train longer; if the loss is flat near ln(K + 1), raise optim.lr"
        )


@dataclass(kw_only=True)
class ByolHealth:
    """Watches a BYOL run. spread: standard deviation of the normalised targets, 1 when they fill their space."""

    warmup: int

    def __call__(self, line: dict[str, Any]) -> Verdict | None:
        """A verdict when all clips have the same target."""
        if line["step"] <= self.warmup or line["spread"] > 0.02:
            return None
        return Verdict(
            f"the targets have collapsed to one point (spread {line['spread']:.3f} of 1) at update {line['step']}; raise "
            "objective.tau, the batch, or lower optim.lr",
            fatal=True,
        )
