"""Run a protocol on frozen embeddings: split, train its classifier, predict, and score beside chance.

`speechssl probe` and `speechssl benchmark` both end here; they differ in the protocol and in where the vectors come from.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.progress import Progress
from speechssl.score.heads import HEADS, Fold, Prediction
from speechssl.score.metrics import UNTESTED, Result, Score, Truth, score_of
from speechssl.score.protocols import Protocol, Split, leaks, standardise_speakers


def run_protocol(
    protocol: Protocol,
    named: dict[str, np.ndarray],
    ids: Sequence[str],
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    task: str,
    model: str,
    notes: Sequence[str] = (),
    grouped_by: str = "speakers",
) -> Result:
    """Score every array of `named`, a vector or the frames of each clip, under a protocol; InputError as of `splits_of`.

    groups: the speaker of each clip ("" if unknown), or what else folds must not share, called `grouped_by`.
    """
    splits = splits_of(protocol, ids, labels, groups, task)
    classes, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    names = [str(name) for name in np.unique(groups)]
    known = 0 if "" in names else len(names)
    clusters = groups if known > 1 else np.arange(len(y))
    truth = Truth(classes=classes, y_N=y, groups_N=groups, clusters_N=clusters, seed=protocol.bootstrap_seed)
    return Result(
        model=model,
        task=task,
        protocol=protocol.name,
        summary=protocol.summary,
        flaws=list(protocol.flaws),
        notes=[*notes, *notes_on(protocol, splits[0], labels, known)],
        clips=len(y),
        groups=known,
        grouped_by=grouped_by,
        folds=len(splits[0]),
        leaked=leaks(splits[0], groups) if known else None,
        resampled=grouped_by if known > 1 else "clips",
        classes=[str(name) for name in classes],
        seeds=list(protocol.seeds),
        chance_accuracy=float(counts.max() / counts.sum()),
        chance_uar=1 / len(counts),
        scores=score_all(protocol, named, truth, splits),
    )


def score_all(protocol: Protocol, named: dict[str, np.ndarray], truth: Truth, splits: list[list[Split]]) -> list[Score]:
    """Predict the test clips of every fold and seed from each array, and score the predictions."""
    from threadpoolctl import threadpool_limits

    scores: list[Score] = []
    total = len(named) * sum(map(len, splits))
    with threadpool_limits(1), Progress(total, "fold", "score", leave=False) as bar:
        for name, x in named.items():  # one thread: the matrices are small, more would only wait for each other
            seeds = zip(protocol.seeds, splits, strict=True)
            predictions = [predict(protocol, x, truth, folds, seed, bar) for seed, folds in seeds]
            scores += scores_of(name, truth, predictions)
    return scores


def splits_of(
    protocol: Protocol, ids: Sequence[str], labels: np.ndarray, groups: np.ndarray, task: str
) -> list[list[Split]]:
    """The folds of every seed. InputError: fewer than two classes, speakers unknown or too few, a fold without enough clips."""
    if len(np.unique(labels)) < 2:
        raise InputError(f"all clips have the label {str(labels[0])!r}; a score needs at least two classes")
    splits = [protocol.splits(ids, labels, groups, task, seed) for seed in protocol.seeds]
    for split in (split for of_seed in splits for split in of_seed):
        for train, valid in split.choices or [(split.known, split.known)]:
            if min(len(train), len(valid), len(split.test)) == 0:
                raise InputError(
                    f"the protocol {protocol.name} leaves a part of its split empty; check that all clips of {task} are there"
                )
            trained = np.unique(labels[split.known[train] if split.choices else train])
            if len(trained) < 2:
                raise InputError(
                    f"a fold of the protocol {protocol.name} trains on the class {str(trained[0])!r} only; it needs more "
                    "speakers or clips of each class"
                )
    return splits


def notes_on(protocol: Protocol, splits: list[Split], labels: np.ndarray, known: int) -> list[str]:
    """What the folds of the first seed lack."""
    notes = []
    for label in np.unique(labels).tolist():
        lost = sum(label in labels[split.test] and label not in trained_labels(split, labels) for split in splits)
        if lost:
            notes.append(
                f"the class {label!r} has so few clips or speakers that it is tested but not trained on in {lost} of "
                f"{len(splits)} folds, where its clips count as errors"
            )
    if known == 2 and protocol.name in ("unseen", "loso"):
        notes.append(
            "two speakers: each is tested after training on the other, a fifth of whose clips chose the strength"
        )
    return notes


def trained_labels(split: Split, labels: np.ndarray) -> np.ndarray:
    """The labels that a classifier has seen: those of all known clips where choices are nested, else of the training part."""
    return labels[split.train if len(split.choices) == 1 else split.known]


def predict(
    protocol: Protocol, x: np.ndarray, truth: Truth, folds: list[Split], seed: int, bar: Progress
) -> Prediction:
    """The predicted class of every clip, UNTESTED where it is in no test part."""
    data = (fold_of(protocol, x, truth, split) for split in folds)
    whole = Prediction(np.full(len(truth.y_N), UNTESTED))
    for split, found in zip(folds, HEADS[protocol.head](data, seed), strict=True):
        whole.chosen[split.test] = found.chosen
        for family, guess in found.families.items():
            whole.families.setdefault(family, np.full(len(truth.y_N), UNTESTED))[split.test] = guess
        bar.update()
    return whole


def fold_of(protocol: Protocol, x: np.ndarray, truth: Truth, split: Split) -> Fold:
    """The vectors and classes of one split."""
    x_known, x_test = x[split.known], x[split.test]
    if protocol.speaker_norm:  # within each part, as published
        parts = [standardise_speakers(x[part], truth.groups_N[part]) for part in (split.train, split.valid)]
        x_known, x_test = np.concatenate(parts), standardise_speakers(x_test, truth.groups_N[split.test])
    return Fold(x_known=x_known, y_known=truth.y_N[split.known], x_test=x_test, choices=split.choices)


def scores_of(name: str, truth: Truth, predictions: list[Prediction]) -> list[Score]:
    """The score of one array, from a prediction for each seed; and if the published form chooses its classifier on the test
    clips, that score too."""
    scores = [score_of(name, truth, [prediction.chosen for prediction in predictions])]
    families = {
        family: score_of(name, truth, [prediction.families[family] for prediction in predictions])
        for family in predictions[0].families
    }
    if families:
        best = max(families, key=lambda family: families[family].accuracy)
        scores.append(replace(families[best], vectors=f"{name} ({best}, chosen on TEST as published)"))
    return scores
