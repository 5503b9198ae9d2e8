"""Accuracy and unweighted average recall (UAR) of predicted classes, with bootstrap intervals over groups of clips."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from speechssl.core.files import replacing

RESAMPLES = 1000
UNTESTED = -1  # the predicted class of a clip that is in no test part


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well the classes are predicted from one kind of vectors; all numbers are fractions, over all seeds together.

    Intervals: 95 %, bootstrap. recall: of each class that was tested. groups: the accuracy of each group (speaker).
    predicted: the last seed's prediction for each clip ("" if it was never tested).
    """

    vectors: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    uar: float
    uar_interval: tuple[float, float]
    confusion: list[list[int]]
    recall: dict[str, float]
    groups: dict[str, float]
    predicted: list[str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The scores of one model under one protocol.

    notes: what the data lack. groups: their number (0: unknown). grouped_by: what they are called. leaked: test groups, over all
    folds, with clips in training too (None: unknown). resampled: what the bootstrap draws.
    """

    model: str
    task: str
    protocol: str
    summary: str
    flaws: list[str]
    notes: list[str]
    clips: int
    groups: int
    grouped_by: str
    folds: int
    leaked: int | None
    resampled: str
    classes: list[str]
    seeds: list[int]
    chance_accuracy: float
    chance_uar: float
    scores: list[Score]

    def __str__(self) -> str:
        name = f"{self.task}/{self.protocol}"
        lines = [f"{name}: {self.summary}"]
        lines += [f"  flaw of the published protocol: {flaw}" for flaw in self.flaws]
        lines += [f"  note: {note}" for note in self.notes]
        if self.leaked is None:
            lines.append(f"  leak: unknown, because the {self.grouped_by} are")
        elif self.leaked:
            lines.append(f"  leak: {self.leaked} test {self.grouped_by} (over all folds) also have clips in training")
        lines.append(
            f"{self.model}: {self.clips} clips, {len(self.classes)} classes, {self.groups} {self.grouped_by}, "
            f"{self.folds} folds, seeds {', '.join(map(str, self.seeds))}; in %, 95 % bootstrap over {self.resampled}; "
            "never compare with a score of another protocol"
        )
        return "\n".join([*lines, *self.table()])

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        with replacing(path) as draft:
            draft.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def table(self) -> list[str]:
        """Accuracy and UAR in % with their intervals, one line for each kind of vectors, below chance."""
        heads = [f"{metric} {self.task}/{self.protocol}" for metric in ("accuracy", "UAR")]
        rows = [("", *heads), ("chance", f"{100 * self.chance_accuracy:.1f}", f"{100 * self.chance_uar:.1f}")]
        for score in self.scores:
            accuracy = percent(score.accuracy, score.accuracy_interval)
            rows.append((score.vectors, accuracy, percent(score.uar, score.uar_interval)))
        first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
        return [f"  {name:{first}s}  {accuracy:>{second}s}  {uar:>{third}s}" for name, accuracy, uar in rows]


def percent(value: float, interval: tuple[float, float]) -> str:
    """A fraction with its interval, in %."""
    low, high = interval
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What predictions are compared with. classes: their names, sorted. y_N: the class of each clip, as an index. groups_N: the
    group of each clip, whose accuracies are listed. clusters_N: what the bootstrap draws, with `seed`."""

    classes: np.ndarray
    y_N: np.ndarray
    groups_N: np.ndarray
    clusters_N: np.ndarray
    seed: int


def score_of(vectors: str, truth: Truth, guesses: list[np.ndarray]) -> Score:
    """The score of predictions (N,), one for each seed, as indices of classes; UNTESTED clips do not count."""
    tested = [np.flatnonzero(guess_N != UNTESTED) for guess_N in guesses]
    rows, classes = np.concatenate(tested), len(truth.classes)
    y = truth.y_N[rows]
    guess = np.concatenate([guess_N[mask] for guess_N, mask in zip(guesses, tested, strict=True)])
    clusters_KCC = confusions(y, guess, np.unique(truth.clusters_N[rows], return_inverse=True)[1], classes)
    names, group = np.unique(truth.groups_N[rows], return_inverse=True)
    groups_GCC = confusions(y, guess, group, classes)
    total_CC = clusters_KCC.sum(axis=0)
    accuracy, uar = rates(total_CC)
    (low, low_uar), (high, high_uar) = intervals(clusters_KCC, truth.seed)
    recall_C = total_CC.diagonal() / np.maximum(total_CC.sum(axis=1), 1)
    labels = [str(name) for name in truth.classes]
    return Score(
        vectors=vectors,
        accuracy=float(accuracy),
        accuracy_interval=(float(low), float(high)),
        uar=float(uar),
        uar_interval=(float(low_uar), float(high_uar)),
        confusion=total_CC.tolist(),
        recall={name: float(recall_C[i]) for i, name in enumerate(labels) if total_CC[i].any()},
        groups={str(name): float(rates(groups_GCC[g])[0]) for g, name in enumerate(names)},
        predicted=["" if index == UNTESTED else labels[index] for index in guesses[-1]],
    )


def confusions(truth: np.ndarray, guess: np.ndarray, group: np.ndarray, classes: int) -> np.ndarray:
    """Indices of true class, predicted class and group of each clip -> counts (G, C, C), true class in rows."""
    groups = int(group.max()) + 1
    cells = (group * classes + truth) * classes + guess
    return np.bincount(cells, minlength=groups * classes * classes).reshape(groups, classes, classes)


def rates(counts_CC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and UAR of confusion matrices (..., C, C), true class in rows; classes without clips do not count."""
    hits_C, totals_C = np.diagonal(counts_CC, axis1=-2, axis2=-1), counts_CC.sum(axis=-1)
    recall_C = np.where(totals_C > 0, hits_C / np.maximum(totals_C, 1), np.nan)
    return hits_C.sum(axis=-1) / totals_C.sum(axis=-1), np.nanmean(recall_C, axis=-1)


def intervals(counts_GCC: np.ndarray, seed: int) -> np.ndarray:
    """The 2.5 and 97.5 percentiles (rows) of accuracy and UAR (columns) over resamples of the groups.

    A resample adds up the confusion matrices of the groups that are drawn, so its cost does not depend on the number of clips.
    """
    rng, groups, counts_GCC = np.random.default_rng(seed), len(counts_GCC), counts_GCC.astype(float)
    totals_RCC = np.zeros((RESAMPLES, *counts_GCC.shape[1:]))
    for resample in range(RESAMPLES):
        times_G = np.bincount(rng.integers(0, groups, size=groups), minlength=groups)
        totals_RCC[resample] = np.tensordot(times_G, counts_GCC, 1)
    return np.percentile(rates(totals_RCC), [2.5, 97.5], axis=1)
