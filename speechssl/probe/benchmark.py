"""Scores of frozen embeddings under a named protocol: accuracy and UAR with speaker-clustered intervals, beside chance."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from speechssl.errors import InputError
from speechssl.probe.heads import HEADS, Parts
from speechssl.probe.linear import intervals, rates, score_lines
from speechssl.probe.protocols import Protocol, leaks, per_speaker

BOOTSTRAP_SEED = 1


@dataclass(frozen=True, kw_only=True)
class Score:
    """Fractions. Intervals: 95 %, bootstrap over speakers, all seeds together. spread: standard deviation over the seeds (over
    the folds if there is one seed). predicted: per clip, the last seed's prediction ("" if never tested)."""

    vectors: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    uar: float
    uar_interval: tuple[float, float]
    spread: float
    confusion: list[list[int]]
    recall: dict[str, float]
    speakers: dict[str, float]
    predicted: list[str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A benchmark of one model; `notes` say what the data lack."""

    model: str
    task: str
    protocol: str
    summary: str
    flaws: list[str]
    notes: list[str]
    clips: int
    speakers: int
    leaked: int
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
        if self.leaked:
            lines.append(f"  speaker leak: {self.leaked} test speakers (over all folds) are also heard in training")
        lines.append(
            f"{self.model}: {self.clips} clips, {len(self.classes)} classes, {self.speakers} speakers, {len(self.seeds)} "
            "seeds; in %, 95 % bootstrap over speakers; never compare with a score of another protocol"
        )
        lines += score_lines(self.scores, self.chance_accuracy, self.chance_uar, f" {name}", column=28)
        return "\n".join(lines)


def run_protocol(
    protocol: Protocol,
    named: dict[str, np.ndarray],
    ids: Sequence[str],
    labels: Sequence[str],
    speakers: Sequence[str],
    *,
    task: str,
    model: str,
    notes: Sequence[str] = (),
) -> Result:
    """Score every matrix (N, D) of `named` under a protocol. InputError: fewer than two classes, too few speakers."""
    from threadpoolctl import threadpool_limits

    y, groups = np.array(labels), np.array(speakers)
    counts = np.unique(y, return_counts=True)[1]
    if len(counts) < 2:
        raise InputError(f"all clips have the label {y[0]!r}; a benchmark needs at least two classes")
    splits = [protocol.splits(ids, y, groups, task, seed) for seed in protocol.seeds]
    for split in splits[0]:
        if min(map(len, split)) == 0:
            raise InputError(
                f"the protocol {protocol.name} leaves a part of its split empty: are all clips of {task} there?"
            )
    with threadpool_limits(1):  # small matrices: more threads only wait for each other
        scores = [s for name, x in named.items() for s in score(protocol, name, x, y, groups, splits)]
    return Result(
        model=model,
        task=task,
        protocol=protocol.name,
        summary=protocol.summary,
        flaws=list(protocol.flaws),
        notes=list(notes),
        clips=len(y),
        speakers=len(np.unique(groups)),
        leaked=leaks(splits[0], groups),
        classes=np.unique(y).tolist(),
        seeds=list(protocol.seeds),
        chance_accuracy=float(counts.max() / counts.sum()),
        chance_uar=1 / len(counts),
        scores=scores,
    )


def score(protocol: Protocol, name: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray, splits: list) -> list[Score]:
    """The score of one matrix, and where the published form chooses its classifier on the test clips, that one too."""
    guesses: dict[str, list[np.ndarray]] = {}
    for seed, own in zip(protocol.seeds, splits, strict=True):
        for choice, predicted in predict(protocol, x, y, groups, own, seed).items():
            guesses.setdefault(choice, []).append(predicted)
    scores = {choice: summarise(name, y, groups, predicted, splits) for choice, predicted in guesses.items()}
    found = [scores.pop("")]
    if scores:
        family, best = max(scores.items(), key=lambda item: item[1].accuracy)
        found.append(replace(best, vectors=f"{name} ({family}, chosen on TEST as published)"))
    return found


def predict(protocol: Protocol, x: np.ndarray, y: np.ndarray, groups: np.ndarray, splits: list, seed: int) -> dict:
    """{choice: a prediction per clip, "" where a clip is in no test part}."""
    head, guesses = HEADS[protocol.head](), {}
    for split in splits:
        if missing := set(y[split.test]) - set(y[split.train]):
            raise InputError(f"the class {missing.pop()!r} is tested but never trained on; it has too few speakers")
        three = list(per_speaker(x, groups, split)) if protocol.speaker_norm else [x[part] for part in split]
        parts = Parts(three[0], three[1], three[2], y[split.train], y[split.valid])
        for choice, predicted in head(parts, seed).items():
            guesses.setdefault(choice, np.full(len(y), "", dtype=y.dtype))[split.test] = predicted
    return guesses


def summarise(name: str, y: np.ndarray, groups: np.ndarray, guesses: list[np.ndarray], splits: list) -> Score:
    """Accuracy, UAR and their intervals over all seeds; per class and per speaker."""
    classes = np.unique(y)
    tested = [guess != "" for guess in guesses]
    truth, guess, who = (
        np.concatenate([values[mask] for values, mask in zip(arrays, tested, strict=True)])
        for arrays in ([y] * len(guesses), guesses, [groups] * len(guesses))
    )
    confusion = matrix(truth, guess, classes)
    accuracy, uar = rates(confusion[None])
    low, high = intervals(truth, guess, who, classes, BOOTSTRAP_SEED)
    if len(guesses) > 1:
        parts = [(y[mask], g[mask]) for g, mask in zip(guesses, tested, strict=True)]
    else:
        parts = [(y[split.test], guesses[0][split.test]) for split in splits[0]]
    recalls = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
    return Score(
        vectors=name,
        accuracy=float(accuracy[0]),
        accuracy_interval=(float(low[0]), float(high[0])),
        uar=float(uar[0]),
        uar_interval=(float(low[1]), float(high[1])),
        spread=float(np.std([rates(matrix(a, b, classes)[None])[1][0] for a, b in parts])),
        confusion=confusion.tolist(),
        recall={str(c): float(r) for c, r in zip(classes, recalls, strict=True)},
        speakers={str(s): float((truth == guess)[who == s].mean()) for s in np.unique(who)},
        predicted=guesses[-1].tolist(),
    )


def matrix(y: np.ndarray, guess: np.ndarray, classes: np.ndarray) -> Any:
    """Confusion matrix, true class in rows."""
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (np.searchsorted(classes, y), np.searchsorted(classes, guess)), 1)
    return counts
