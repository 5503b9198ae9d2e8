"""What a classifier learns of a row: one class, a distribution over classes (votes), or any number of labels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.data.manifest import COLUMNS, Manifest, Utterance

SEPARATOR = ";"  # between the labels of a cell


class Target(NamedTuple):
    """names: rows and columns -> the classes. encode: a row's cells and the classes -> (C,), None for an empty cell. loss: logits
    and targets (B, C) -> (B, C), whose sum over classes is the loss of a clip. guess: logits -> 0 or 1 for each class.
    problem: what transformers calls it."""

    names: Callable[[Manifest, Sequence[str]], list[str]]
    encode: Callable[[list[str], list[str]], np.ndarray | None]
    loss: Callable[[Tensor, Tensor], Tensor]
    guess: Callable[[Tensor], Tensor]
    problem: str


def cells(utterance: Utterance, columns: Sequence[str]) -> list[str]:
    """The cells of a row."""
    known = utterance.extra | {name: str(getattr(utterance, name)) for name in COLUMNS}
    return [known.get(name, "").strip() for name in columns]


def values_in(rows: Manifest, columns: Sequence[str]) -> list[str]:
    """The values of one column."""
    if len(columns) != 1:
        raise InputError(
            f"objective.label = {list(columns)} names {len(columns)} columns; several need objective.target = votes"
        )
    return sorted({cell.strip() for cell in rows.cells(columns[0])} - {""})


def parts_in(rows: Manifest, columns: Sequence[str]) -> list[str]:
    """The labels in the cells of one column."""
    found = {part.strip() for cell in values_in(rows, columns) for part in cell.split(SEPARATOR)}
    return sorted(found - {""})


def column_names(rows: Manifest, columns: Sequence[str]) -> list[str]:
    """The columns themselves."""
    for name in columns:
        rows.cells(name)  # InputError if there is none
    return list(columns)


def one_class(cell: list[str], classes: list[str]) -> np.ndarray | None:
    """1 for the class; InputError for one that is not known."""
    return some_classes(cell, classes, [cell[0]]) if cell[0] else None


def some_classes(cell: list[str], classes: list[str], named: list[str]) -> np.ndarray:
    """1 for each class that is named."""
    unknown = [name for name in named if name not in classes]
    if unknown:
        raise InputError(f"the class {unknown[0]!r} is not among {', '.join(classes[:20])}")
    return np.isin(classes, named).astype(np.float32)


def any_classes(cell: list[str], classes: list[str]) -> np.ndarray | None:
    """1 for each label in the cell; `none` is the name of no label."""
    named = [part.strip() for part in cell[0].split(SEPARATOR) if part.strip()]
    return some_classes(cell, classes, named) if named else None


def shares(cell: list[str], classes: list[str]) -> np.ndarray | None:
    """The share of the votes that each class has; InputError for what is no count."""
    try:
        votes_C = np.array([float(value or 0) for value in cell], dtype=np.float32)
    except ValueError:
        raise InputError(f"the votes {cell} for {', '.join(classes)} are not all numbers") from None
    if not np.isfinite(votes_C).all() or (votes_C < 0).any():
        raise InputError(f"the votes {cell} for {', '.join(classes)} are not all counts")
    return votes_C / votes_C.sum() if votes_C.any() else None


def cross_entropy(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """-t log p for each class."""
    return -targets_BC * torch.log_softmax(logits_BC, dim=1)


def binary(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """The binary cross-entropy of each label, divided by their number."""
    return F.binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none") / logits_BC.shape[1]


def largest(logits_BC: Tensor) -> Tensor:
    """1 for the class with the largest logit."""
    return F.one_hot(logits_BC.argmax(dim=1), logits_BC.shape[1]).float()


def positive(logits_BC: Tensor) -> Tensor:
    """1 for each label that is more likely than not."""
    return (logits_BC > 0).float()


ONE = "single_label_classification"
TARGETS = {  # by objective.target
    "class": Target(values_in, one_class, cross_entropy, largest, ONE),
    "votes": Target(column_names, shares, cross_entropy, largest, ONE),
    "labels": Target(parts_in, any_classes, binary, positive, "multi_label_classification"),
}
