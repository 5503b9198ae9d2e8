"""`speechssl probe`: a linear probe of an embedding file over folds of unseen speakers, beside chance.

Each fold's scaler, regularisation and layer mixture are chosen on the training speakers only, by an inner split over
speakers; the test speakers are predicted once.
"""

from pathlib import Path

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_file
from speechssl.score.metrics import Result
from speechssl.score.protocols import probe_protocol
from speechssl.score.runner import run_protocol


def probe(
    embeddings: Path,
    *,
    label: str = "label",
    group: str = "speaker",
    folds: int = 5,
    seed: int = 1,
    out: Path | None = None,
) -> Result:
    """Probe every vector column of a Parquet file; with several layers also their mixture.

    InputError: missing column, fewer than two classes or groups, vectors that are not numbers or not of one length.
    """
    if seed < 0:
        raise InputError(f"--seed {seed} cannot be negative")
    if out is not None:
        output_file(out, "probe.json")
    columns = read_columns(embeddings, label, group)
    labels, groups = (to_values(embeddings, name, columns[name]) for name in (label, group))
    named = {name: to_matrix(embeddings, name, columns[name]) for name in columns if name not in (label, group)}
    result = probe_vectors(
        named, labels, groups, label=label, group=group, folds=folds, seed=seed, model=str(embeddings)
    )
    if out is not None:
        result.save(out)
    return result


def probe_vectors(
    named: dict[str, np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    label: str,
    group: str = "speaker",
    folds: int = 5,
    seed: int = 1,
    model: str = "vectors",
    mixture: bool = True,
) -> Result:
    """The same for matrices (N, D) in memory. mixture: of all of them, if there are several."""
    check(labels, groups, label)
    protocol, ids = probe_protocol(folds, seed), [str(i) for i in range(len(labels))]
    splits = protocol.splits(ids, labels, groups, label, seed)
    tested = {name for split in splits for name in labels[split.test].tolist()}
    if missing := set(labels.tolist()) - tested:
        raise InputError(
            f"the class {str(min(missing))!r} of {label!r} occurs with so few groups that it can never be tested unseen; "
            "leave its clips out, or record it with more speakers"
        )
    stacked = {**named, "mixture": np.stack(list(named.values()), axis=1)} if mixture and len(named) > 1 else named
    grouped_by = "speakers" if group == "speaker" else f"groups of {group!r}"
    return run_protocol(protocol, stacked, ids, labels, groups, task=label, model=model, grouped_by=grouped_by)


def check(labels: np.ndarray, groups: np.ndarray, label: str) -> None:
    """InputError unless there are two classes and two groups."""
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"the column {label!r} has a single value ({str(labels[0])!r}); a probe needs at least two classes"
        )
    if len(np.unique(groups)) < 2:
        raise InputError(f"all rows are of one group ({str(groups[0])!r}); testing on unseen groups needs at least two")


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
