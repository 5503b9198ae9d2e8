"""The table of utterances: our TSV, and those of fairseq, NeMo and Kaldi. Columns, so that a million rows stay cheap."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechssl.errors import InputError

COLUMNS = ("id", "path", "start", "duration", "speaker", "label", "text", "split")
ALIASES = {"dur": "duration", "audio_filepath": "path", "offset": "start", "sentence": "text", "client_id": "speaker"}


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One row. start and duration in seconds; duration NaN when nobody has looked yet. extra: any further columns."""

    id: str
    path: str
    start: float = 0.0
    duration: float = float("nan")
    speaker: str = ""
    label: str = ""
    text: str = ""
    split: str = ""
    extra: dict[str, str] = field(default_factory=dict)


class Manifest:
    """Columns of strings and of seconds; `manifest[i]` is an Utterance."""

    def __init__(self, columns: dict[str, list[str]], starts: np.ndarray, durations: np.ndarray) -> None:
        self.columns, self.starts, self.durations = columns, starts, durations

    @classmethod
    def of(cls, rows: Iterable[Utterance]) -> "Manifest":
        """From utterances."""
        rows = list(rows)
        names = [name for name in COLUMNS if name not in ("start", "duration")]
        columns = {name: [getattr(row, name) for row in rows] for name in names}
        for name in sorted({key for row in rows for key in row.extra}):
            columns[name] = [row.extra.get(name, "") for row in rows]
        numbers = [np.array([getattr(row, name) for row in rows], dtype=float) for name in ("start", "duration")]
        return cls(columns, *numbers)

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, index: int) -> Utterance:
        values = {name: column[index] for name, column in self.columns.items()}
        extra = {name: values.pop(name) for name in list(values) if name not in COLUMNS}
        return Utterance(**values, start=float(self.starts[index]), duration=float(self.durations[index]), extra=extra)

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> list[str]:
        """A column as strings; InputError names the columns there are."""
        if name not in self.columns:
            raise InputError(f"the manifest has no column {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    def select(self, indices: Iterable[int]) -> "Manifest":
        """Some of the rows."""
        chosen = np.fromiter(indices, dtype=np.int64)
        columns = {name: [column[i] for i in chosen] for name, column in self.columns.items()}
        return Manifest(columns, self.starts[chosen], self.durations[chosen])

    def where(self, **values: str) -> "Manifest":
        """The rows whose columns have these values; InputError if there are none."""
        keep = [i for i in range(len(self)) if all(self.column(name)[i] == value for name, value in values.items())]
        if not keep:
            raise InputError(f"no row of the manifest has {values}")
        return self.select(keep)


def read_manifest(*paths: str | Path) -> Manifest:
    """One or several manifests as one: our TSV, fairseq's TSV, NeMo's JSONL or a Kaldi folder, told apart by their looks.
    Relative paths are relative to the manifest. InputError: missing file or column, no rows, duplicate ids."""
    rows, seen = [], {}
    for path in map(Path, paths):
        for number, row in enumerate(read_rows(path), 1):
            place = f"row {number} of {path}"
            if row.id in seen:
                raise InputError(f"{seen[row.id]} and {place} have the same id {row.id!r}; ids must differ")
            seen[row.id] = place
            rows.append(row)
    return Manifest.of(rows)


def read_rows(path: Path) -> list[Utterance]:
    """The rows of one manifest of any kind."""
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
    if not rows:
        raise InputError(f"{path} has no rows; check what `speechssl prepare` rejected")
    return rows


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; InputError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); is it a manifest?"
        ) from None


def make_row(values: dict[str, str], folder: Path, where: str) -> Utterance:
    """An utterance from named strings."""
    values = {ALIASES.get(name, name): value or "" for name, value in values.items()}
    audio = os.path.join(folder, values["path"])
    extra = {name: value for name, value in values.items() if name not in COLUMNS}
    known = {name: values[name] for name in ("speaker", "label", "text", "split") if name in values}
    try:
        start, duration = float(values.get("start") or 0), float(values.get("duration") or "nan")
    except ValueError:
        raise InputError(f"{where}: start or duration is not a number of seconds: {values}") from None
    identity = values.get("id") or values["path"] + (f"@{start:g}" if start else "")
    return Utterance(id=identity, path=audio, start=start, duration=duration, extra=extra, **known)


def read_table(path: Path) -> list[Utterance]:
    """A TSV with a header line, or fairseq's: the root folder in the first line, then path and samples."""
    lines = read_lines(path)
    if lines and "\t" not in lines[0] and Path(lines[0]).is_absolute():
        return read_fairseq(path, lines)
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    names = [ALIASES.get(name, name) for name in reader.fieldnames or []]
    if "path" not in names:
        raise InputError(
            f"{path} has no column `path`; its first line must name the columns, it has: {', '.join(names)}"
        )
    return [make_row(row, path.parent, f"{path} line {n}") for n, row in enumerate(reader, 2) if row.get(None) is None]


def read_fairseq(path: Path, lines: list[str]) -> list[Utterance]:
    """fairseq: samples are at 16 kHz; transcripts come from the .wrd or .ltr file beside the TSV."""
    words, letters = path.with_suffix(".wrd"), path.with_suffix(".ltr")
    texts = [""] * (len(lines) - 1)
    if words.exists():
        texts = read_lines(words)
    elif letters.exists():
        texts = [line.replace(" ", "").replace("|", " ").strip() for line in read_lines(letters)]
    if len(texts) != len(lines) - 1:
        raise InputError(
            f"{path} has {len(lines) - 1} rows but {len(texts)} transcripts lie beside it; they must match"
        )
    rows = []
    for number, (line, text) in enumerate(zip(lines[1:], texts, strict=True), 2):
        name, _, samples = line.partition("\t")
        if not samples.strip().isdigit():
            raise InputError(f"{path} line {number}: {line!r} is not `path<TAB>samples`")
        values = {"path": name, "id": name, "duration": str(int(samples) / 16_000), "text": text}
        rows.append(make_row(values, Path(lines[0]), f"{path} line {number}"))
    return rows


def read_jsonl(path: Path) -> list[Utterance]:
    """NeMo: one JSON object a line."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            values = {str(name): str(value) for name, value in json.loads(line).items()}
        except (ValueError, AttributeError):
            raise InputError(f"{path} line {number} is not a JSON object") from None
        if not {"audio_filepath", "path"} & set(values):
            raise InputError(f"{path} line {number} has no `audio_filepath`; it has {', '.join(values)}")
        rows.append(make_row(values, path.parent, f"{path} line {number}"))
    return rows


def read_kaldi(folder: Path) -> list[Utterance]:
    """Kaldi: wav.scp, and if present text, utt2spk, segments, spk2gender and spk2age."""

    def table(name: str) -> dict[str, str]:
        file = folder / name
        pairs = (line.split(maxsplit=1) for line in read_lines(file)) if file.exists() else ()
        return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs if pair}

    waves, texts, speakers, segments = (table(name) for name in ("wav.scp", "text", "utt2spk", "segments"))
    traits = {name: table(f"spk2{name}") for name in ("gender", "age") if (folder / f"spk2{name}").exists()}
    for key, command in waves.items():
        if command.rstrip().endswith("|"):
            raise InputError(
                f"{folder / 'wav.scp'}: {key} is a shell pipe; write its output to a file, pipes are not run"
            )
    cuts = {key: (key, "0", "") for key in waves} | {key: tuple(value.split()) for key, value in segments.items()}
    rows = []
    for key in segments or waves:
        recording, start, end = cuts[key]
        duration = str(float(end) - float(start)) if end else ""
        values = {"id": key, "path": waves.get(recording, ""), "start": start, "duration": duration}
        values |= {"text": texts.get(key, ""), "speaker": speakers.get(key, "")}
        values |= {name: of.get(values["speaker"], "") for name, of in traits.items()}
        rows.append(make_row(values, Path(), f"{folder} {key}"))
    return rows


def write_manifest(rows: Iterable[Utterance], path: str | Path) -> None:
    """Our TSV, replaced in one step; paths below its folder are written relative to it."""
    path = Path(path)
    rows = list(rows)
    names = [*COLUMNS, *sorted({key for row in rows for key in row.extra})]
    lines = ["\t".join(names)]
    folder = os.path.abspath(path.parent) + os.sep
    for row in rows:
        audio = os.path.abspath(row.path)
        values = vars(row) | row.extra
        values |= {
            "path": audio.removeprefix(folder),
            "start": f"{row.start:.3f}".rstrip("0").rstrip("."),
            "duration": f"{row.duration:.3f}",
        }
        lines.append("\t".join(" ".join(str(values.get(name, "")).split()) for name in names))
    draft = path.with_name(path.name + ".tmp")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draft.replace(path)
