"""A linear probe of embeddings over folds of unseen speakers: accuracy and UAR with intervals, beside chance.

Each fold's scaler, regularisation and layer mixture are chosen on the training speakers alone, by an inner split over
speakers; the test speakers are looked at once.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_file, replacing

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """Accuracy and unweighted average recall with 95 % intervals (low, high), as fractions.

    predicted: for each clip, in the order of the rows, what the classifier said that never saw its group.
    """

    vectors: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    uar: float
    uar_interval: tuple[float, float]
    confusion: list[list[int]]
    predicted: list[str]


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """A probe of one embedding file."""

    protocol: str
    label: str
    classes: list[str]
    clips: int
    groups: int
    folds: int
    chance_accuracy: float
    chance_uar: float
    scores: list[ProbeScore]

    def __str__(self) -> str:
        lines = [
            f"{self.protocol}",
            f"{self.clips} clips, {len(self.classes)} classes, {self.groups} groups, {self.folds} folds; in %, "
            "95 % bootstrap over groups",
            *score_lines(self.scores, self.chance_accuracy, self.chance_uar),
        ]
        return "\n".join(lines)


def score_lines(
    scores: Sequence[Any], chance_accuracy: float, chance_uar: float, suffix: str = "", column: int = 22
) -> list[str]:
    """A table of accuracy and UAR in %, with their intervals, beside chance; `suffix` marks what the columns measure."""
    width = max(12, *(len(score.vectors) for score in scores))
    lines = [
        f"  {'':{width}s} {'accuracy' + suffix:>{column}s} {'UAR' + suffix:>{column}s}",
        f"  {'chance':{width}s} {100 * chance_accuracy:{column}.1f} {100 * chance_uar:{column}.1f}",
    ]
    for score in scores:
        cells = [
            f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            for value, (low, high) in ((score.accuracy, score.accuracy_interval), (score.uar, score.uar_interval))
        ]
        lines.append(f"  {score.vectors:{width}s} {cells[0]:>{column}s} {cells[1]:>{column}s}")
    return lines


def probe(
    embeddings: Path,
    *,
    label: str = "label",
    group: str = "speaker",
    folds: int = 5,
    seed: int = 1,
    out: Path | None = None,
) -> ProbeResult:
    """Probe every vector column of a Parquet file; with several layers also their mixture.

    InputError: missing column, fewer than two classes or groups, vectors that are not numbers or not of one length.
    """
    if seed < 0:
        raise InputError(f"--seed {seed} cannot be negative")
    if out is not None:
        output_file(out, "probe.json")
    columns = read_columns(embeddings, label, group)
    y, groups = (to_values(embeddings, name, columns[name]) for name in (label, group))
    named = {name: to_matrix(embeddings, name, columns[name]) for name in columns if name not in (label, group)}
    result = probe_vectors(named, y, groups, label=label, folds=folds, seed=seed)
    if out is not None:
        with replacing(out) as draft:
            draft.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    return result


def probe_vectors(
    named: dict[str, np.ndarray], y: np.ndarray, groups: np.ndarray, *, label: str, folds: int = 5, seed: int = 1
) -> ProbeResult:
    """The same for matrices (N, D) in memory."""
    from threadpoolctl import threadpool_limits

    check(y, groups, label)
    splits = group_folds(y, groups, folds, seed)
    if missing := set(y) - set(y[np.concatenate([test for _, test in splits])] if splits else ()):
        raise InputError(
            f"the class {str(min(missing))!r} of {label!r} occurs with so few groups that it can never be tested unseen; "
            "leave its clips out, or record it with more speakers"
        )
    stacked = {**named, "mixture": np.stack(list(named.values()), axis=1)} if len(named) > 1 else named
    with threadpool_limits(1):  # small matrices: more threads only wait for each other
        scores = [score(name, vectors, y, groups, splits, seed) for name, vectors in stacked.items()]
    counts = np.unique(y, return_counts=True)[1]
    return ProbeResult(
        protocol="linear probe on frozen embeddings, group-disjoint folds, regularisation chosen on training groups",
        label=label,
        classes=[str(c) for c in np.unique(y)],
        clips=len(y),
        groups=len(np.unique(groups)),
        folds=len(splits),
        chance_accuracy=float(counts.max() / counts.sum()),
        chance_uar=1 / len(counts),
        scores=scores,
    )


def read_columns(path: Path, label: str, group: str) -> dict[str, list]:
    """The label, group and vector columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; make it with `speechssl embed MODEL SRC --out {path}`") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a Parquet file that can be read ({error})") from None
    vectors = [name for name in table.column_names if name.startswith("vector")]
    for name in (label, group, *(vectors or ["vector"])):
        if name not in table.column_names:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(table.column_names)}")
    if "frames" in table.column_names:
        raise InputError(
            f"{path} holds frames (--pool none); a probe needs one vector per clip: embed with --pool mean"
        )
    return {name: table[name].to_pylist() for name in (label, group, *vectors)}


def to_values(path: Path, name: str, values: list) -> np.ndarray:
    """A column of texts or numbers as (N,), all of one type; InputError for lists and for empty cells."""
    if not values:
        raise InputError(f"{path} has no rows; embed again")
    if any(isinstance(value, (list, dict)) for value in values):
        raise InputError(f"{path}: the column {name!r} holds lists; --label and --group need one value per clip")
    empty = sum(value is None or value == "" or value != value for value in values)
    if empty:
        raise InputError(f"{path}: {empty} of {len(values)} rows have no {name!r}; fill the column, or leave them out")
    return np.array(values)


def to_matrix(path: Path, name: str, values: list) -> np.ndarray:
    """Rows of numbers as (N, D)."""
    if len({len(row or ()) for row in values}) != 1:
        raise InputError(f"{path}: the rows of {name} differ in length; they come from different models")
    matrix = np.array(values, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise InputError(f"{path}: {name} holds NaN or infinite numbers; embed again")
    return matrix


def check(y: np.ndarray, groups: np.ndarray, label: str) -> None:
    """InputError unless there is something to tell apart and someone unseen to test on."""
    if len(np.unique(y)) < 2:
        raise InputError(f"the column {label!r} has a single value ({str(y[0])!r}); a probe needs at least two classes")
    if len(np.unique(groups)) < 2:
        raise InputError(f"all rows are of one group ({str(groups[0])!r}); testing on unseen groups needs at least two")


def group_folds(y: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) indices of folds that share no group, with the classes spread as evenly as groups allow.

    No more folds than the largest class has clips. Folds that test a class of which they train nothing are left out.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    largest = int(np.unique(y, return_counts=True)[1].max())
    if largest < 2:
        return []
    count = max(2, min(folds, len(np.unique(groups)), largest))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class is small: the intervals tell
        splits = list(splitter.split(np.zeros(len(y)), y, groups))
    return [
        (train, test) for train, test in splits if len(test) and len(set(y[train])) > 1 and {*y[test]} <= {*y[train]}
    ]


def score(name: str, vectors: np.ndarray, y: np.ndarray, groups: np.ndarray, splits: Sequence, seed: int) -> ProbeScore:
    """Predictions for every clip from a classifier that never saw its group, and their scores."""
    predicted = np.empty_like(y)
    for train, test in splits:
        predicted[test] = fit_predict(vectors[train], y[train], groups[train], vectors[test], seed)
    classes = np.unique(y)
    confusion = matrix(y, predicted, classes)
    accuracy, uar = rates(confusion[None])
    low, high = intervals(y, predicted, groups, classes, seed)
    return ProbeScore(
        vectors=name,
        accuracy=float(accuracy[0]),
        accuracy_interval=(float(low[0]), float(high[0])),
        uar=float(uar[0]),
        uar_interval=(float(low[1]), float(high[1])),
        confusion=confusion.tolist(),
        predicted=[str(c) for c in predicted],
    )


def fit_predict(x: np.ndarray, y: np.ndarray, groups: np.ndarray, x_test: np.ndarray, seed: int) -> np.ndarray:
    """Choose the strength (and for (N, L, D) the layers' mixture) on held-out training groups, refit, predict."""
    options = [(c, w) for w in mixtures(x) for c in STRENGTHS]
    inner = group_folds(y, groups, 3, seed) if len(np.unique(groups)) > 1 else []
    if {k for _, test in inner for k in y[test]} != {*y}:
        inner = []  # choosing by some of the classes would favour those
    best, best_score = (
        options[len(STRENGTHS) - 1],
        -1.0,
    )  # where nothing can be chosen: all layers alike, the weakest penalty
    for c, weights in options if inner else ():
        recalls = []
        for train, test in inner:
            guess = classifier(c).fit(mix(x[train], weights), y[train]).predict(mix(x[test], weights))
            recalls.append(recall(y[test], guess))
        if np.mean(recalls) > best_score:
            best, best_score = (c, weights), float(np.mean(recalls))
    c, weights = best
    return classifier(c).fit(mix(x, weights), y).predict(mix(x_test, weights))


def mixtures(x: np.ndarray) -> list[np.ndarray | None]:
    """Layer weights to choose from: all alike, or a bump around one of the layers; None for a plain matrix."""
    if x.ndim == 2:
        return [None]
    layers = x.shape[1]
    bumps = [np.exp(-0.5 * ((np.arange(layers) - centre) / 1.0) ** 2) for centre in range(layers)]
    return [np.full(layers, 1 / layers), *(bump / bump.sum() for bump in bumps)]


def mix(x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """(N, L, D) -> (N, D)."""
    return x if weights is None else np.einsum("nld,l->nd", x, weights)


def classifier(strength: float):
    """Standardise, then multinomial logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300, tol=1e-3))


def matrix(y: np.ndarray, guess: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Confusion matrix, true class in rows."""
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (np.searchsorted(classes, y), np.searchsorted(classes, guess)), 1)
    return counts


def recall(y: np.ndarray, guess: np.ndarray) -> float:
    """UAR: the recall of each class, averaged."""
    return float(np.mean([(guess[y == k] == k).mean() for k in np.unique(y)]))


def rates(confusion_RCC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and UAR of confusion matrices (true class in rows); classes without clips do not count."""
    hits_RC, totals_RC = np.diagonal(confusion_RCC, axis1=1, axis2=2), confusion_RCC.sum(axis=2)
    recall_RC = np.where(totals_RC > 0, hits_RC / np.maximum(totals_RC, 1), np.nan)
    return hits_RC.sum(axis=1) / totals_RC.sum(axis=1), np.nanmean(recall_RC, axis=1)


def intervals(y: np.ndarray, predicted: np.ndarray, groups: np.ndarray, classes: np.ndarray, seed: int):
    """2.5 and 97.5 percentiles of (accuracy, UAR) over 1,000 resamples of the groups."""
    index = {c: i for i, c in enumerate(classes)}
    names = np.unique(groups)
    per_group = np.zeros((len(names), len(classes), len(classes)))
    for g, a, b in zip(np.searchsorted(names, groups), y, predicted, strict=True):
        per_group[g, index[a], index[b]] += 1
    rng = np.random.default_rng(seed)
    confusions = np.zeros((1000, len(classes), len(classes)))
    for confusion in confusions:  # counts, not copies of the rows: groups may be many
        times = np.bincount(rng.integers(0, len(names), size=len(names)), minlength=len(names))
        confusion[:] = np.tensordot(times, per_group, 1)
    accuracy, uar = rates(confusions)
    return np.percentile([accuracy, uar], [2.5, 97.5], axis=1)
