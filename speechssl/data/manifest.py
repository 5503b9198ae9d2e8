"""The table of utterances, held in columns so that a million rows stay small, and how our TSV is written; tables.py reads."""

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import replacing

COLUMNS = ("id", "path", "start", "duration", "channel", "speaker", "label", "text", "split")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One row. start, duration: seconds (NaN: not known yet). channel: see data/channels.py. extra: any further columns."""

    id: str
    path: str
    start: float = 0.0
    duration: float = float("nan")
    channel: str = ""
    speaker: str = ""
    label: str = ""
    text: str = ""
    split: str = ""
    extra: dict[str, str] = field(default_factory=dict)


class Strings:
    """A column of strings as one block of UTF-8 and the end of each string in it.

    A million Python strings would take several times the memory, and each loader process would copy them all, because
    reading one changes its reference count. An Arrow table takes twice the memory, and is no faster to open or to read.
    """

    def __init__(self, empty: int = 0) -> None:
        """A column that begins with `empty` empty strings."""
        self.block, self.ends = bytearray(), array("q", bytes(8 * empty))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return str(self.block[start : self.ends[index]], "utf-8", "surrogatepass")

    def extend(self, cells: Iterable[str]) -> None:
        """Append strings. File names may contain bytes that are not valid UTF-8."""
        for cell in cells:
            self.block += cell.encode("utf-8", "surrogatepass")
            self.ends.append(len(self.block))


class Manifest:
    """Columns of strings and of seconds; `manifest[i]` is an Utterance.

    starts, durations: seconds, (R,). rows_R: the position of row i in the columns of strings, which selections share.
    """

    def __init__(
        self, columns: dict[str, Strings], starts: np.ndarray, durations: np.ndarray, rows_R: np.ndarray
    ) -> None:
        self.columns, self.starts, self.durations, self.rows_R = columns, starts, durations, rows_R

    @classmethod
    def of(cls, rows: Iterable[Utterance]) -> "Manifest":
        """The table of some utterances, of which only some thousand exist at a time."""
        rows, count = iter(rows), 0
        known = {name: Strings() for name in COLUMNS if name not in ("start", "duration")}
        others: dict[str, Strings] = {}
        starts, durations = array("d"), array("d")
        while some := list(islice(rows, 4096)):
            for name, column in known.items():
                column.extend([getattr(row, name) for row in some])
            for name in {key for row in some for key in row.extra} - set(others):
                others[name] = Strings(empty=count)
            for name, column in others.items():
                column.extend([row.extra.get(name, "") for row in some])
            starts.extend(row.start for row in some)
            durations.extend(row.duration for row in some)
            count += len(some)
        columns = known | {name: others[name] for name in sorted(others)}
        return cls(columns, np.array(starts), np.array(durations), np.arange(count))

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, index: int) -> Utterance:
        values = {name: column[self.rows_R[index]] for name, column in self.columns.items()}
        extra = {name: values.pop(name) for name in list(values) if name not in COLUMNS}
        return Utterance(**values, start=float(self.starts[index]), duration=float(self.durations[index]), extra=extra)

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> list[str]:
        """A column as strings. InputError for an unknown name, with the list of columns."""
        return list(self.cells(name))

    def cells(self, name: str) -> Iterator[str]:
        """The strings of a column one by one. InputError as in `column`."""
        if name not in self.columns:
            raise InputError(f"the manifest has no column {name!r}; it has {', '.join(self.columns)}")
        return map(self.columns[name].__getitem__, self.rows_R)

    def digest(self) -> str:
        """A hash of all columns and rows."""
        digest = hashlib.blake2b(digest_size=8)
        for name, column in self.columns.items():
            digest.update(name.encode())
            digest.update(column.block)
            digest.update(column.ends)
        for numbers in (self.starts, self.durations, self.rows_R):
            digest.update(numbers.tobytes())
        return digest.hexdigest()

    def select(self, indices: Iterable[int]) -> "Manifest":
        """The rows `indices`, in that order."""
        chosen = np.fromiter(indices, dtype=np.int64)
        return Manifest(self.columns, self.starts[chosen], self.durations[chosen], self.rows_R[chosen])

    def where(self, conditions: str | Sequence[str]) -> "Manifest":
        """The rows that meet every condition such as "split=train" or "speaker=anna,ben"; values of the same column
        are alternatives.

        No condition selects all. InputError if no row meets them, for an unknown column, and for what is not a condition.
        """
        kept, words = self, [conditions] if isinstance(conditions, str) else conditions
        for name, values in parse_conditions(words).items():
            cells = kept.column(name)
            wanted = {part for value in values for part in ([value] if value in cells else value.split(","))}
            keep = [i for i, cell in enumerate(cells) if cell in wanted]
            if not keep:
                known = ", ".join(sorted(set(cells))[:10])
                raise InputError(
                    f"no row of the manifest has {' '.join(words)}; the column {name} holds {known or 'nothing'}"
                )
            kept = kept.select(keep)
        return kept


def parse_conditions(words: Iterable[str]) -> dict[str, set[str]]:
    """["split=train", "language=fr,speaker=anna"] -> column -> the values that it may have. InputError for a word without =."""
    wanted: dict[str, set[str]] = {}
    for condition in [part for word in words for part in re.split(r",(?=[^,=]+=)", word) if part]:
        name, equals, value = condition.partition("=")
        if not equals:
            raise InputError(f"--where {condition}: a condition is COLUMN=VALUE, such as split=test")
        wanted.setdefault(name.strip(), set()).add(value)
    return wanted


def fits_a_line(name: str) -> bool:
    """Whether a file name can be written into a manifest: it has no tab, no line break, and is valid UTF-8."""
    return not any(c in "\t\r\n\0" or "\ud800" <= c <= "\udfff" for c in name)


def write_manifest(rows: Iterable[Utterance], path: str | Path) -> None:
    """Write our TSV, which replaces an older one in one step.

    Paths below its folder become relative to it. In all fields but ids and paths, white space becomes a single space.
    """
    path = Path(path)
    rows = list(rows)
    names = [*COLUMNS, *sorted({key for row in rows for key in row.extra})]
    lines = ["\t".join(names)]
    folder = os.path.abspath(path.parent) + os.sep
    for row in rows:
        values = {name: " ".join(str(value).split()) for name, value in (vars(row) | row.extra).items()}
        values |= {
            "id": escape(row.id),
            "path": escape(os.path.abspath(row.path).removeprefix(folder)),
            "start": f"{row.start:.3f}".rstrip("0").rstrip("."),
            "duration": f"{row.duration:.3f}",
        }
        lines.append("\t".join(values.get(name, "") for name in names))
    with replacing(path) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rejected_path(out: Path) -> Path:
    """x.tsv -> x.rejected.tsv, x.parquet -> x.parquet.rejected.tsv: what was left out of `out`, and of no other file."""
    return out.with_name(f"{out.name.removesuffix('.tsv')}.rejected.tsv")


def read_rejected(out: Path) -> list[tuple[str, str]]:
    """What is listed as left out of `out` already: its own second check must not forget the findings of the first."""
    file = rejected_path(out)
    lines = file.read_text(encoding="utf-8").splitlines()[1:] if file.exists() else []
    return [(source, reason) for source, _, reason in (line.partition("\t") for line in lines)]


def write_rejected(rejected: Iterable[tuple[str, str]], out: Path) -> None:
    """List what was left out of `out`, as (path, reason); remove an older list if nothing was."""
    lines = list(dict.fromkeys(f"{escape(source)}\t{' '.join(reason.split())}\n" for source, reason in rejected))
    if not lines:
        rejected_path(out).unlink(missing_ok=True)
        return
    with replacing(rejected_path(out)) as draft:
        draft.write_text("".join(["path\treason\n", *lines]), encoding="utf-8", errors="backslashreplace")


def escape(name: str) -> str:
    """A file name as one line of valid UTF-8: unchanged where possible, else with escapes."""
    return name if fits_a_line(name) else ascii(name)[1:-1]
