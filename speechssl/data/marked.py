"""What the column `split` marks rows as, and which rows a run takes therefore."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from speechssl.core.errors import InputError
from speechssl.data.manifest import Manifest, parse_conditions
from speechssl.data.tables import read_manifest

TRAIN, DEV, TEST, NONE = "train", "dev", "test", "no part"
NAMES = {  # the first word of a mark: train-clean-100 is train
    **dict.fromkeys(("train", "training", "tr"), TRAIN),
    **dict.fromkeys(("dev", "devel", "development", "valid", "validation", "val"), DEV),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), TEST),
}


def part_of(mark: str) -> str:
    """The part that a mark names, NONE for any other word."""
    word = re.match("[a-z]*", mark.strip().lower())
    return NAMES.get(word[0], NONE) if word else NONE


def parts_of(rows: Manifest) -> np.ndarray:
    """The part of each row (R,)."""
    known: dict[str, str] = {}
    for mark in rows.cells("split"):
        if mark not in known:
            known[mark] = part_of(mark)
    return np.array([known[mark] for mark in rows.cells("split")], dtype=object)


def counted(parts_R: np.ndarray) -> str:
    """ "10 train, 2 dev", in that order."""
    counts = Counter(parts_R.tolist())
    return ", ".join(f"{counts[part]} {part}" for part in (TRAIN, DEV, TEST, NONE) if counts[part])


def read_parts(
    train: Sequence[Path], valid: Sequence[Path], where: Sequence[str], report: Callable[[str], None]
) -> tuple[Manifest, Manifest | None]:
    """The rows to train on, and those that validate, None without any; `report` gets a line where not all are taken.

    where: conditions on the rows; those on the column split are for `train` only. InputError if all rows of `train` are marked
    as those of a test.
    """
    rows = read_manifest(*train).where(where)
    parts_R = parts_of(rows)
    taken_R = np.isin(parts_R, (TRAIN, NONE))
    if not taken_R.any() and (parts_R == DEV).all():
        report(f"train: all {len(rows)} rows are marked dev in the column split, and are trained on")
        taken_R[:] = True
    if not taken_R.any():
        names = ", ".join(map(str, train))
        raise InputError(
            f"{names}: no row is marked train in the column split ({counted(parts_R)}), and training on rows marked test would "
            "make every later score worthless; give other rows, or clear the column split if it is wrong"
        )
    dev_R = (parts_R == DEV) & ~taken_R
    checked = read_valid(valid, where, report) if valid else rows.select(np.flatnonzero(dev_R)) if dev_R.any() else None
    if not taken_R.all():
        rest = "" if valid or not dev_R.any() else f", {dev_R.sum()} marked dev validate"
        note = (
            f"train: {len(rows)} rows, by their column split {counted(parts_R)}: {taken_R.sum()} are trained on{rest}"
        )
        report(f"{note}, {(~taken_R).sum() - (dev_R.sum() if rest else 0)} are left out")
    return rows.select(np.flatnonzero(taken_R)), checked


def read_valid(valid: Sequence[Path], where: Sequence[str], report: Callable[[str], None]) -> Manifest:
    """The rows that validate: those marked dev, where others are there too."""
    wanted = {name: values for name, values in parse_conditions(where).items() if name != "split"}
    rows = read_manifest(*valid).where([f"{name}={value}" for name, values in wanted.items() for value in values])
    parts_R = parts_of(rows)
    dev_R = parts_R == DEV
    if dev_R.any() and not dev_R.all():
        report(
            f"valid: {len(rows)} rows, by their column split {counted(parts_R)}: the {dev_R.sum()} marked dev validate"
        )
        return rows.select(np.flatnonzero(dev_R))
    if (parts_R == TEST).any():
        report(f"valid: {counted(parts_R)} by the column split; a test that chooses the checkpoint is no test any more")
    return rows
