"""The table of utterances: our TSV, and those of fairseq, NeMo and Kaldi, held in columns so that a million rows stay small."""

import hashlib
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import replacing

COLUMNS = ("id", "path", "start", "duration", "channel", "speaker", "label", "text", "split")
ALIASES = {
    **{"dur": "duration", "offset": "start", "audio_filepath": "path"},
    **{"sentence": "text", "client_id": "speaker", "speaker_id": "speaker"},
}


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

    def where(self, condition: str) -> "Manifest":
        """The rows that meet a condition such as "split=train"; "" selects all. InputError if no row meets it."""
        if not condition:
            return self
        name, _, value = condition.partition("=")
        keep = [i for i, cell in enumerate(self.cells(name)) if cell == value]
        if not keep:
            known = ", ".join(sorted(set(self.cells(name)))[:10])
            raise InputError(f"no row of the manifest has {condition}; the column {name} holds {known or 'nothing'}")
        return self.select(keep)


def read_manifest(*paths: str | Path) -> Manifest:
    """Read one or several manifests as one: our TSV, fairseq's TSV, NeMo's JSONL or a Kaldi folder, recognised by content.

    Relative paths start from the manifest's folder. InputError for a missing file or column, no rows, and equal ids.
    """
    hashes = array("q")

    def rows() -> Iterator[Utterance]:
        for path in map(Path, paths):
            for row in read_rows(path):
                hashes.append(hash(row.id))
                yield row

    manifest = Manifest.of(rows())
    if len(np.unique(np.array(hashes))) < len(hashes):
        refuse_equal_ids(paths)
    return manifest


def refuse_equal_ids(paths: Iterable[str | Path]) -> None:
    """InputError that names the first two rows with the same id."""
    seen: dict[str, str] = {}
    for path in map(Path, paths):
        for number, row in enumerate(read_rows(path), 1):
            place = f"row {number} of {path}"
            if row.id in seen:
                raise InputError(f"{seen[row.id]} and {place} have the same id {row.id!r}; ids must differ")
            seen[row.id] = place


def read_rows(path: Path) -> Iterator[Utterance]:
    """The rows of one manifest of any kind. InputError if there are none."""
    if not path.exists():
        raise InputError(f"{path} does not exist; make a manifest with `speechssl prepare FOLDER --out {path.name}`")
    if path.is_dir():
        if not (path / "wav.scp").exists():
            raise InputError(
                f"{path} is a folder without wav.scp; make a manifest: `speechssl prepare {path} --out x.tsv`"
            )
        rows = read_kaldi(path)
    elif path.suffix in (".jsonl", ".json"):
        rows = read_jsonl(path)
    else:
        rows = read_table(path)
    row = None
    for row in rows:
        yield row
    if row is None:
        raise InputError(f"{path} has no rows; check what `speechssl prepare` rejected")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file without a byte order mark, ended by LF, CRLF or CR. InputError if it is not UTF-8.

    Not by str.splitlines, which splits at some characters that a transcript may hold.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line in file:
                yield line.removesuffix("\n")
    except UnicodeDecodeError:
        try:  # once more in one piece, because only then the error has the place in the file
            path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            problem = f"{error.reason} at byte {error.start}"
            raise InputError(f"{path} is not UTF-8 text ({problem}); if it is a manifest, save it as UTF-8") from None


def make_row(values: dict[str, str], folder: str, where: str) -> Utterance:
    """An utterance from the strings of a row. `where` names the row in errors; InputError for a missing path or a bad time."""
    if not values.get("path"):
        raise InputError(f"{where} has no path; fill it in or remove the row")
    extra = {name: values[name] for name in values.keys() - COLUMNS}
    known = {name: " ".join(values.get(name, "").split()) for name in ("channel", "speaker", "label", "text", "split")}
    start = seconds(values, "start", 0.0, where)
    identity = values.get("id") or values["path"] + (f"@{start:g}" if start else "")
    return Utterance(
        id=identity,
        path=os.path.join(folder, values["path"]),
        start=start,
        duration=seconds(values, "duration", math.nan, where),
        extra=extra,
        **known,
    )


def known_names(names: list[str]) -> list[str]:
    """Column names with the known aliases replaced by our names, each of which is given to one column only."""
    taken, found = set(names), []
    for name in names:
        ours = ALIASES.get(name, name)
        found.append(name if ours in taken else ours)
        taken.add(found[-1])
    return found


def seconds(values: dict[str, str], name: str, default: float, where: str) -> float:
    """A time in seconds; `default` where the field is empty or NaN. InputError for anything that is not a time."""
    try:
        value = float(values.get(name) or "nan")
    except ValueError:
        value = -1.0
    if value < 0 or math.isinf(value):
        raise InputError(f"{where}: {name} = {values[name]!r} is not a number of seconds; correct it or leave it empty")
    return default if math.isnan(value) else value


def read_table(path: Path) -> Iterator[Utterance]:
    """Our TSV, whose first line names the columns; or fairseq's, whose first line is the root folder."""
    lines = read_lines(path)
    first = next(lines, "")
    if "\t" not in first and Path(first).is_absolute():
        yield from read_fairseq(path, first, list(lines))
        return
    names = known_names([name.strip() for name in first.split("\t")])
    if "path" not in names:
        shown = ", ".join(names)[:200]
        raise InputError(
            f"{path} has no column `path`; its first line must name the columns, separated by tabs; it has: {shown}"
        )
    name, folder = str(path), str(path.parent)
    for number, line in enumerate(lines, 2):
        cells = line.split("\t")
        if any(cells[len(names) :]):
            raise InputError(
                f"{path} line {number} has {len(cells)} fields but the first line names {len(names)}; if a tab is inside "
                "a field, replace it by a space"
            )
        if line.strip():
            yield make_row(dict(zip(names, cells, strict=False)), folder, f"{name} line {number}")


def read_fairseq(path: Path, root: str, lines: list[str]) -> Iterator[Utterance]:
    """fairseq: path and number of samples at 16 kHz; the transcripts are in the .wrd or .ltr file beside the TSV."""
    words, letters = path.with_suffix(".wrd"), path.with_suffix(".ltr")
    texts = [""] * len(lines)
    if words.exists():
        texts = list(read_lines(words))
    elif letters.exists():
        texts = [line.replace(" ", "").replace("|", " ").strip() for line in read_lines(letters)]
    if len(texts) != len(lines):
        raise InputError(f"{path} has {len(lines)} rows but {len(texts)} transcripts lie beside it; they must match")
    for number, (line, text) in enumerate(zip(lines, texts, strict=True), 2):
        name, _, samples = line.partition("\t")
        if not samples.strip().isdigit():
            raise InputError(f"{path} line {number}: {line!r} is not `path<TAB>samples`")
        values = {"path": name, "id": name, "duration": str(int(samples) / 16_000), "text": text}
        yield make_row(values, root, f"{path} line {number}")


def read_jsonl(path: Path) -> Iterator[Utterance]:
    """NeMo: one JSON object per line."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            values = {str(k): "" if value is None else str(value) for k, value in json.loads(line).items()}
        except (ValueError, AttributeError):
            raise InputError(f"{path} line {number} is not a JSON object") from None
        if not {"audio_filepath", "path"} & set(values):
            raise InputError(f"{path} line {number} has no `audio_filepath`; it has {', '.join(values)}")
        values = dict(zip(known_names(list(values)), values.values(), strict=True))
        yield make_row(values, str(path.parent), f"{path} line {number}")


def read_kaldi(folder: Path) -> Iterator[Utterance]:
    """Kaldi: wav.scp, and where present text, utt2spk, segments, spk2gender and spk2age.

    As in Kaldi, relative paths start from the working folder. Where no file lies there, they start from this folder or, as
    in speechocean762, from the one above.
    """

    def table(name: str) -> dict[str, str]:
        file = folder / name
        pairs = (line.strip().split(maxsplit=1) for line in read_lines(file)) if file.exists() else ()
        return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs if pair}

    waves, texts, speakers, segments = (table(name) for name in ("wav.scp", "text", "utt2spk", "segments"))
    traits = {name: table(f"spk2{name}") for name in ("gender", "age") if (folder / f"spk2{name}").exists()}
    for key, command in waves.items():
        if command.endswith("|"):
            raise InputError(
                f"{folder / 'wav.scp'}: {key} is a shell pipe; write its output to a file, pipes are not run"
            )
    places = (Path("."), folder, folder.parent)
    first = next(iter(waves.values()), "")
    root = next((str(place) for place in places if first and (place / first).exists()), ".")
    for key in segments or waves:
        recording, start, end = key, 0.0, 0.0
        if segments:
            recording, start, end = kaldi_segment(segments[key], f"{folder / 'segments'}: {key}")
        if recording not in waves:
            raise InputError(f"{folder / 'segments'}: {key} is cut from {recording}, which {folder / 'wav.scp'} lacks")
        values = {"id": key, "path": waves[recording], "start": str(start), "duration": str(end - start) if end else ""}
        values |= {"text": texts.get(key, ""), "speaker": speakers.get(key, "")}
        values |= {name: of.get(values["speaker"], "") for name, of in traits.items()}
        yield make_row(values, root, f"{folder} {key}")


def kaldi_segment(line: str, where: str) -> tuple[str, float, float]:
    """(recording, start, end) of a line of `segments`. InputError if it is not of that form."""
    try:
        recording, start, end = line.split()
        return recording, float(start), float(end)
    except ValueError:
        raise InputError(f"{where} {line} is not `segment recording start end`; correct the line") from None


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
    """x.tsv -> x.rejected.tsv, the list of what was left out of `out`."""
    return out.with_suffix(".rejected.tsv")


def write_rejected(rejected: Iterable[tuple[str, str]], out: Path) -> None:
    """List what was left out of `out`, as (path, reason); remove an older list if nothing was."""
    lines = [f"{escape(source)}\t{' '.join(reason.split())}\n" for source, reason in rejected]
    if not lines:
        rejected_path(out).unlink(missing_ok=True)
        return
    with replacing(rejected_path(out)) as draft:
        draft.write_text("".join(["path\treason\n", *lines]), encoding="utf-8", errors="backslashreplace")


def escape(name: str) -> str:
    """A file name as one line of valid UTF-8: unchanged where possible, else with escapes."""
    return name if fits_a_line(name) else ascii(name)[1:-1]
