"""Tables of utterances in every format: READERS recognises one by its content, and a reader makes its rows."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.lines import first_bytes, first_text
from speechssl.data.columns import Reading
from speechssl.data.kaldi import read_kaldi
from speechssl.data.lhotse import is_lhotse, read_lhotse
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.nist import read_talks
from speechssl.data.objects import (
    FEATHER,
    PARQUET,
    STREAM,
    is_json,
    is_saved_dataset,
    is_yaml,
    read_arrow,
    read_json,
    read_saved_dataset,
    read_yaml,
)
from speechssl.data.places import ENDINGS
from speechssl.data.separated import header_of, is_fairseq, is_list, read_fairseq, read_list, read_separated


class Begin(NamedTuple):
    """How a file or folder begins, which tells its format. data: its first bytes. text: the same decoded, "" if it is no text."""

    path: Path
    data: bytes
    text: str
    reading: Reading


class Format(NamedTuple):
    """A kind of table. fits: whether it begins so. rows: (path, how the text begins, reading) -> its utterances."""

    fits: Callable[[Begin], bool]
    rows: Callable[[Path, str, Reading], Iterator[Utterance]]


READERS = {  # the first that fits reads
    "Kaldi folder": Format(
        lambda b: (b.path / "wav.scp").is_file(), lambda path, _, reading: read_kaldi(path, reading)
    ),
    "datasets folder": Format(lambda b: is_saved_dataset(b.path), read_saved_dataset),
    "wav.scp": Format(lambda b: b.path.name == "wav.scp", lambda path, _, reading: read_kaldi(path.parent, reading)),
    "Parquet, Arrow": Format(lambda b: b.data.startswith((PARQUET, FEATHER, STREAM)), read_arrow),
    "lhotse": Format(lambda b: is_json(b.text) and is_lhotse(b.text), read_lhotse),
    "JSON": Format(lambda b: is_json(b.text), read_json),
    "STM, CTM": Format(lambda b: b.path.suffix.lower() in (".stm", ".ctm"), read_talks),
    "YAML": Format(lambda b: is_yaml(b.text), read_yaml),
    "fairseq": Format(lambda b: is_fairseq(b.text), read_fairseq),
    "TSV, CSV": Format(lambda b: header_of(b.text, b.reading) is not None, read_separated),
    "list": Format(lambda b: is_list(b.path, b.text), read_list),
}


def begin(path: Path, reading: Reading) -> Begin:
    """How a table begins."""
    if path.is_dir():
        return Begin(path, b"", "", reading)
    if not path.is_file():
        raise InputError(f"{path} is no plain file, and tables are read more than once; save it as one")
    return Begin(path, first_bytes(path, 8), first_text(path, reading.encoding), reading)


def is_table(path: Path) -> bool:
    """Whether a file or folder is read as a table, not as audio: a folder of a known format, or a file of text, Parquet or Arrow
    whose name is not one of audio."""
    if path.is_dir():
        return any(one.fits(begin(path, Reading())) for one in (READERS["Kaldi folder"], READERS["datasets folder"]))
    if not path.is_file() or path.suffix.lower() in ENDINGS:
        return False
    start = begin(path, Reading())
    return bool(start.text) or READERS["Parquet, Arrow"].fits(start)


def read_manifest(*paths: str | Path, reading: Reading | None = None) -> Manifest:
    """Read one or several tables as one, each of any format in READERS.

    Relative paths start from the table's folder. InputError for a missing file or column, no rows, and equal ids.
    """
    reading = reading or Reading()
    hashes = array("q")

    def rows() -> Iterator[Utterance]:
        for path in map(Path, paths):
            for row in read_rows(path, reading):
                hashes.append(hash(row.id))
                yield row

    manifest = Manifest.of(rows())
    if len(np.unique(np.array(hashes))) < len(hashes):
        refuse_equal_ids(paths, reading)
    return manifest


def refuse_equal_ids(paths: Iterable[str | Path], reading: Reading) -> None:
    """InputError that names the first two rows with the same id."""
    seen: dict[str, str] = {}
    for path in map(Path, paths):
        for number, row in enumerate(read_rows(path, reading), 1):
            place = f"row {number} of {path}"
            if row.id in seen:
                paths = f", or let the paths be the ids: `speechssl prepare {path} --columns id= --out all.tsv`"
                parts = ", or add the columns start and end if they are parts of one recording"
                raise InputError(
                    f"{seen[row.id]} and {place} have the same id {row.id!r}; ids must differ: remove one of them"
                    + (parts if row.path.endswith(row.id) else paths)
                )
            seen[row.id] = place


def read_rows(path: Path, reading: Reading | None = None) -> Iterator[Utterance]:
    """The rows of one table of any format. InputError if there are none."""
    if not path.exists():
        raise InputError(f"{path} does not exist; make a manifest with `speechssl prepare FOLDER --out {path.name}`")
    reading, row = reading or Reading(), None
    start = begin(path, reading)
    for row in format_of(start).rows(path, start.text, reading):
        yield row
    if row is None:
        if reading.left_out:
            last = reading.left_out[-1]
            raise InputError(f"{path} has no row that can be used; the last one, {last.where}: {last.problem}")
        raise InputError(f"{path} has no rows; fill it or leave it out")


def format_of(start: Begin) -> Format:
    """The format of a table. InputError if it is none that is known."""
    path = start.path
    found = next((known for known in READERS.values() if known.fits(start)), None)
    if found:
        return found
    if path.is_dir():
        raise InputError(f"{path} is a folder without wav.scp; make a manifest: `speechssl prepare {path} --out x.tsv`")
    if start.data.startswith(b"PK"):
        raise InputError(f"{path} is a workbook or an archive; save the table as CSV")
    if path.suffix.lower() in ENDINGS:
        raise InputError(
            f"{path} is named as audio, and this takes a table; name the folder that it lies in, or list it in one"
        )
    if start.data and not start.text:
        raise InputError(
            f"{path} is not a table of text; if it is UTF-16 without a mark: `speechssl prepare {path} --encoding utf-16-le`"
        )
    return READERS["TSV, CSV"]
