"""Scores of frozen embeddings under a named protocol: accuracy and UAR with speaker-clustered intervals, beside chance."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from speechssl.core.errors import InputError
from speechssl.score.heads import HEADS, Parts
from speechssl.score.probe import intervals, matrix, rates, score_lines
from speechssl.score.protocols import Protocol, Split, leaks, per_speaker

BOOTSTRAP_SEED = 1


@dataclass(frozen=True, kw_only=True)
class Score:
    """Fractions. Intervals: 95 %, bootstrap over speakers (over clips where fewer than two are known), all seeds together.
    recall: of each class that was tested. predicted: per clip, the last seed's prediction ("" if never tested)."""

    vectors: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    uar: float
    uar_interval: tuple[float, float]
    confusion: list[list[int]]
    recall: dict[str, float]
    speakers: dict[str, float]
    predicted: list[str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A benchmark of one model; `notes` say what the data lack. leaked: test speakers, over all folds, heard in training too
    (None: unknown). resampled: what the bootstrap draws."""

    model: str
    task: str
    protocol: str
    summary: str
    flaws: list[str]
    notes: list[str]
    clips: int
    speakers: int
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
            lines.append("  speaker leak: unknown, since the speakers are")
        elif self.leaked:
            lines.append(f"  speaker leak: {self.leaked} test speakers (over all folds) are also heard in training")
        lines.append(
            f"{self.model}: {self.clips} clips, {len(self.classes)} classes, {self.speakers} speakers, {len(self.seeds)} "
            f"seeds; in %, 95 % bootstrap over {self.resampled}; never compare with a score of another protocol"
        )
        lines += score_lines(self.scores, self.chance_accuracy, self.chance_uar, f" {name}", column=28)
        return "\n".join(lines)


def run_protocol(
    protocol: Protocol,
    named: dict[str, np.ndarray],
    ids: Sequence[str],
    y: np.ndarray,
    groups: np.ndarray,
    *,
    task: str,
    model: str,
    notes: Sequence[str] = (),
) -> Result:
    """Score every matrix (N, D) of `named` under a protocol; InputError as of `splits_of`."""
    from threadpoolctl import threadpool_limits

    splits, notes = splits_of(protocol, ids, y, groups, task), list(notes)
    for label in np.unique(y).tolist():
        lost = sum(label in y[split.test] and label not in y[split.train] for split in splits[0])
        if lost:
            notes.append(
                f"the class {label!r} has so few clips or speakers that it is tested but not trained on in {lost} of "
                f"{len(splits[0])} folds, where its clips count as missed"
            )
    known = len(np.unique(groups)) if "" not in groups else 0
    if known == 2 and protocol.name in ("unseen", "loso"):
        notes.append(
            "two speakers: each is tested after training on the other, a fifth of whose clips chose the strength"
        )
    clusters = groups if known > 1 else np.arange(len(y)).astype(str)
    counts = np.unique(y, return_counts=True)[1]
    with threadpool_limits(1), tqdm(total=len(named) * sum(map(len, splits)), desc="score", leave=False) as bar:
        # small matrices: more threads only wait for each other
        scores = [s for name, x in named.items() for s in score(protocol, name, x, y, groups, clusters, splits, bar)]
    return Result(
        model=model,
        task=task,
        protocol=protocol.name,
        summary=protocol.summary,
        flaws=list(protocol.flaws),
        notes=notes,
        clips=len(y),
        speakers=known,
        leaked=leaks(splits[0], groups),
        resampled="speakers" if known > 1 else "clips",
        classes=np.unique(y).tolist(),
        seeds=list(protocol.seeds),
        chance_accuracy=float(counts.max() / counts.sum()),
        chance_uar=1 / len(counts),
        scores=scores,
    )


def splits_of(
    protocol: Protocol, ids: Sequence[str], y: np.ndarray, groups: np.ndarray, task: str
) -> list[list[Split]]:
    """The folds of every seed. InputError: fewer than two classes, speakers unknown or too few, a fold without enough."""
    if len(np.unique(y)) < 2:
        raise InputError(f"all clips have the label {str(y[0])!r}; a benchmark needs at least two classes")
    splits = [protocol.splits(ids, y, groups, task, seed) for seed in protocol.seeds]
    for split in (split for of_seed in splits for split in of_seed):
        if min(map(len, split)) == 0:
            raise InputError(
                f"the protocol {protocol.name} leaves a part of its split empty: are all clips of {task} there?"
            )
        if len(np.unique(y[split.train])) < 2:
            raise InputError(
                f"a fold of the protocol {protocol.name} trains on the class {str(y[split.train][0])!r} only: it needs more "
                "speakers or clips of each class"
            )
    return splits


def score(
    protocol: Protocol,
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    clusters: np.ndarray,
    splits: list[list[Split]],
    bar: Any,
) -> list[Score]:
    """The score of one matrix, and where the published form chooses its classifier on the test clips, that one too."""
    guesses: dict[str, list[np.ndarray]] = {}
    for seed, own in zip(protocol.seeds, splits, strict=True):
        for choice, predicted in predict(protocol, x, y, groups, own, seed, bar).items():
            guesses.setdefault(choice, []).append(predicted)
    scores = {choice: summarise(name, y, groups, clusters, predicted) for choice, predicted in guesses.items()}
    found = [scores.pop("")]
    if scores:
        family, best = max(scores.items(), key=lambda item: item[1].accuracy)
        found.append(replace(best, vectors=f"{name} ({family}, chosen on TEST as published)"))
    return found


def predict(
    protocol: Protocol, x: np.ndarray, y: np.ndarray, groups: np.ndarray, splits: list[Split], seed: int, bar: Any
) -> dict[str, np.ndarray]:
    """{choice: a prediction per clip, "" where a clip is in no test part}."""
    head, guesses = HEADS[protocol.head](), {}
    for split in splits:
        three = list(per_speaker(x, groups, split)) if protocol.speaker_norm else [x[part] for part in split]
        parts = Parts(three[0], three[1], three[2], y[split.train], y[split.valid])
        for choice, predicted in head(parts, seed).items():
            guesses.setdefault(choice, np.full(len(y), "", dtype=y.dtype))[split.test] = predicted
        bar.update()
    return guesses


def summarise(name: str, y: np.ndarray, groups: np.ndarray, clusters: np.ndarray, guesses: list[np.ndarray]) -> Score:
    """Accuracy, UAR and their intervals over all seeds; per class and per speaker."""
    classes = np.unique(y)
    tested = [guess != "" for guess in guesses]
    truth, guess, speakers, drawn = (
        np.concatenate([values[mask] for values, mask in zip(arrays, tested, strict=True)])
        for arrays in ([y] * len(guesses), guesses, [groups] * len(guesses), [clusters] * len(guesses))
    )
    confusion = matrix(truth, guess, classes)
    accuracy, uar = rates(confusion[None])
    low, high = intervals(truth, guess, drawn, classes, BOOTSTRAP_SEED)
    return Score(
        vectors=name,
        accuracy=float(accuracy[0]),
        accuracy_interval=(float(low[0]), float(high[0])),
        uar=float(uar[0]),
        uar_interval=(float(low[1]), float(high[1])),
        confusion=confusion.tolist(),
        recall={
            str(c): float(row[i] / row.sum())
            for i, (c, row) in enumerate(zip(classes, confusion, strict=True))
            if row.any()
        },
        speakers={str(s): float((truth == guess)[speakers == s].mean()) for s in np.unique(speakers)},
        predicted=guesses[-1].tolist(),
    )
