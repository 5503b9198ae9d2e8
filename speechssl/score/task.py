"""The labelled clips that a benchmark runs on, and notes on what is missing or was changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from speechssl.core.errors import InputError
from speechssl.data.corpora import class_level, find_rows
from speechssl.data.cremad import heard_by_people, is_pointer, missing
from speechssl.data.manifest import Utterance
from speechssl.sound.audio import FOREIGN

TASKS = ("auto", "crema-d", "ravdess", "emodb", "emovo", "nemo", "savee", "shemo", "tess", "other")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labelled clips under the name of their corpus (`other`: any). notes: what is missing or was changed."""

    name: str
    rows: list[Utterance]
    notes: list[str]

    def columns(self, rows: Sequence[Utterance] | None = None) -> tuple[list[str], np.ndarray, np.ndarray]:
        """What a protocol splits by: file names, labels and speakers; of `rows`, if only these could be read."""
        rows = self.rows if rows is None else rows
        labels, speakers = ([getattr(row, name) for row in rows] for name in ("label", "speaker"))
        return [Path(row.path).stem for row in rows], np.array(labels), np.array(speakers)


def read_task(
    data: Path,
    name: str,
    *,
    label: str = "label",
    where: str | Sequence[str] = "",
    pattern: str = "",
    leave_out: Sequence[str] = (),
) -> Task:
    """The clips of `data` that have a label.

    name: one of TASKS. label: the column to predict. where, pattern: as of `speechssl prepare`. leave_out: file names, without
    ending, that the published form of a protocol does not use.
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    found, corpus = find_rows(data, "folder" if name == "other" else name, pattern)
    notes = missing(data) if corpus == "crema-d" else []
    rows = list(found.where(where))
    if label != "label":
        rows = [replace(row, label=str(getattr(row, label, row.extra.get(label, "")))) for row in rows]
    if corpus == "folder" and not any(row.label for row in rows):
        rows = label_by_folder(rows, data, notes)
    if corpus not in ("folder", "manifest", "pattern"):
        rows = drop_copies(rows, notes)
    usable = [row for row in rows if row.label and Path(row.path).stem not in leave_out and not is_pointer(row.path)]
    if not usable:
        raise InputError(
            f"{data}: none of {len(rows)} clips has a {label}; give a manifest with the columns path, speaker and {label}, "
            "name the corpus with --task, or describe its file names with --pattern"
        )
    if len(usable) < len(rows):
        notes.append(f"{len(rows) - len(usable)} of {len(rows)} clips are not used: no {label}, or as published")
    if corpus == "crema-d" and label == "label":
        notes.append(heard_by_people([Path(row.path).stem for row in usable]))
    if name == "auto":
        name = corpus if corpus in TASKS else "other"
    return Task(name=name, rows=usable, notes=notes)


def label_by_folder(rows: list[Utterance], data: Path, notes: list[str]) -> list[Utterance]:
    """The rows with the names of their folders as labels, if the folders of exactly one level differ; adds a note."""
    level = class_level([Path(row.path) for row in rows], data)
    if level is None:
        return rows
    labelled = []
    for row in rows:
        folders = Path(row.path).relative_to(data).parts[:-1]
        labelled.append(replace(row, label=folders[level] if level < len(folders) else "", speaker=""))
    names = sorted({row.label for row in labelled} - {""})
    shown = ", ".join(names[:12]) + " ..." * (len(names) > 12)
    notes.append(
        f"no file name contains a label: the names of the folders are used ({shown}), and the speakers are unknown"
    )
    return labelled


def drop_copies(rows: list[Utterance], notes: list[str]) -> list[Utterance]:
    """One row for each file name of a speaker, sound before video; adds a note if there were more."""
    once: dict[tuple[str, str, float, str], Utterance] = {}
    for row in sorted(rows, key=lambda row: Path(row.path).suffix.lower() in FOREIGN):
        once.setdefault((row.speaker, Path(row.path).stem, row.start, row.channel), row)
    if len(once) < len(rows):
        notes.append(f"{len(rows) - len(once)} clips exist twice under the same name; one copy is used")
    return list(once.values())
