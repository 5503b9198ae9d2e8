"""What the columns of other people's tables mean, and from the strings of a row to an utterance."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from speechssl.core.errors import InputError
from speechssl.data.manifest import COLUMNS, Utterance
from speechssl.data.places import Places
from speechssl.sound import audio

Row = TypeVar("Row")
ALIASES = {  # compared without case, blanks, hyphens and underscores
    "path": "file file_name file_path path_to_file wav wav_file wav_path wav_filename audio audio_file audio_filename "
    "audio_filepath audio_path audio_paths path_to_audio clip clip_path",
    "text": "transcription transcript sentence wrd words utterance normalized_text normalised_text text_tn",
    "speaker": "speaker_id speaker_name spk spk_id client_id user_id user_ids actor actor_id",
    "label": "emotion class class_name category",
    "split": "subset partition",
    "id": "utt utt_id utterance_id segment_id",
    "channel": "",
}
ROLES = (*COLUMNS, "end")
TIMES = {"start": "start", "begin": "start", "onset": "start", "offset": "start"}
TIMES |= {"end": "end", "stop": "end", "duration": "duration", "dur": "duration", "length": "duration"}
UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
SAMPLES = 0.0  # in place of a unit: one sample at the file's own rate
CLOCK = re.compile(r"(\d+:)?\d+:\d{1,2}([.,]\d+)?")
TIME = re.compile(
    rf"(?:audio|clip|segment|utterance|utt|wav)?({'|'.join(TIMES)})(?:time)?(?:in)?[\[(]?({'|'.join(UNITS)}|samples?)?[\])]?"
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How tables are read where they do not say it. columns: our name -> theirs, "" for none. encoding: of text without a byte
    order mark. unpack: the folder for audio that lies inside a table; None: it is refused. unpacked: the names of the files that
    were written there, of all tables that are read so. left_out: the rows that cannot be used; None: the first of them stops the
    table."""

    columns: dict[str, str] = field(default_factory=dict)
    encoding: str = ""
    unpack: Path | None = None
    unpacked: set[str] = field(default_factory=set)
    left_out: "list[LeftOut] | None" = None

    def usable(self, where: str, path: str, row: Callable[[], Row]) -> Iterator[Row]:
        """What `row` makes, unless that is an InputError and rows are left out. where: names the row. path: what it says."""
        try:
            yield row()
        except InputError as error:
            self.leave_out(where, error, path)

    def leave_out(self, where: str, error: InputError, path: str = "") -> None:
        """Note a row that cannot be used, or raise the error where that stops the table."""
        if self.left_out is None:
            raise error
        self.left_out.append(LeftOut(where, str(error).removeprefix(where).lstrip(": "), path))


class LeftOut(NamedTuple):
    """A row that cannot be used: its place, what is wrong, and its path as far as it has one."""

    where: str
    problem: str
    path: str = ""


class AudioInside(InputError):
    """A table that holds the audio itself, which must be written into files first."""


class NoPath(InputError):
    """A table of whose columns none is that of the audio."""


def parse_columns(words: Iterable[str]) -> dict[str, str]:
    """["text=transcription", "speaker="] -> {"text": "transcription", "speaker": ""}. InputError for other words and names."""
    columns: dict[str, str] = {}
    for word in words:
        ours, equals, theirs = word.partition("=")
        if not equals or ours not in ROLES:
            raise InputError(
                f"--columns {word}: give OURS=THEIRS, such as text=transcription; ours are {', '.join(ROLES)}"
            )
        columns[ours] = theirs.strip()
    return columns


def squeezed(name: str) -> str:
    """A column name as aliases are compared: "Speaker ID" -> speakerid."""
    return re.sub(r"[\s_-]+", "", name).lower()


MEANING = {squeezed(name): role for role, others in ALIASES.items() for name in (role, *others.split())}


def names_a_path(names: Iterable[str], reading: Reading) -> bool:
    """Whether one of some column names is that of the audio."""
    return any(MEANING.get(squeezed(name)) == "path" or name == reading.columns.get("path") for name in names)


class Header:
    """The columns of a table. sources: our name -> the column that has it. names: of the columns, ours where they have one, ""
    for a column that is not kept. units: those of times, in seconds."""

    def __init__(self, names: Sequence[str], reading: Reading, table: Path, where: str = "") -> None:
        """where: what an error is about, if not the whole table. InputError if two columns may be the same one of ours, none is
        the path, or `reading` names one that is not there."""
        self.table, self.where, self.theirs = table, where or str(table), names
        self.units = dict.fromkeys(("start", "end", "duration"), 1.0)
        self.refuse_equal_names()
        meaning = {name: meaning_of(name, names) for name in names}
        found = {role: self.source(role, reading, [name for name in names if meaning[name] == role]) for role in ROLES}
        self.sources = {role: source for role, source in found.items() if source}
        if "path" not in self.sources:
            raise NoPath(
                f"{self.where} has no column `path`; its first line must name the columns, separated by tabs or commas, "
                f"or say which one it is: {self.by_hand('path=COLUMN')}; it has: {', '.join(names)[:200]}"
            )
        for role in self.units.keys() & self.sources.keys():
            self.units[role] = unit_of(self.sources[role])
        if {"id", "duration", "wav", "stop"} <= set(map(squeezed, names)):  # SpeechBrain, which counts in samples
            self.units |= {"start": SAMPLES, "end": SAMPLES}
        ours = {source: role for role, source in reversed(self.sources.items())}
        self.names = [ours.get(name, f"other_{name}" if name in ROLES else name) for name in names]
        self.copies = {role: ours[source] for role, source in self.sources.items() if ours[source] != role}
        self.plain = "end" not in self.sources and set(self.units.values()) == {1.0} and not self.copies

    def refuse_equal_names(self) -> None:
        """InputError if two columns have the same name."""
        double = next((name for name, count in Counter(filter(None, self.theirs)).items() if count > 1), None)
        if double:
            raise InputError(f"{self.where} names the column {double!r} twice; rename one of them")

    def source(self, role: str, reading: Reading, candidates: list[str]) -> str:
        """The column that is `role`: the one that the user named, else that of just this name, else the only candidate."""
        named = reading.columns.get(role)
        if named is not None:
            if named and named not in self.theirs:
                raise InputError(
                    f"{self.where} has no column {named!r} for {role}; it has: {', '.join(self.theirs)[:200]}"
                )
            return named
        exact = [name for name in candidates if name == role] or [name for name in candidates if squeezed(name) == role]
        if len(exact or candidates) > 1:
            names = " and ".join(map(repr, exact or candidates))
            hint = self.by_hand(f"{role}={(exact or candidates)[0]}")
            raise InputError(
                f"{self.where}: each of the columns {names} may be the {role}; say which one it is: {hint}"
            )
        return "".join(exact or candidates)

    def by_hand(self, columns: str) -> str:
        """The command that an error suggests."""
        return f"`speechssl prepare {self.table} --columns {columns} --out all.tsv`"

    def path(self, cells: Sequence[str]) -> str:
        """The path in a row, "" if it has none."""
        place = self.theirs.index(self.sources["path"])
        return cells[place] if place < len(cells) else ""

    def row(self, cells: Iterable[str], places: Places, where: str) -> Utterance:
        """The utterance of a row. `where` names the row in errors; InputError for a missing path or a bad time."""
        values = dict(zip(self.names, cells, strict=False))
        values.pop("", None)
        if not self.plain:
            values |= {role: values.get(other, "") for role, other in self.copies.items()}
            self.count_seconds(values, places, where)
        return make_row(values, places, where)

    def count_seconds(self, values: dict[str, str], places: Places, where: str) -> None:
        """Turn other units into seconds, and an end into a duration; the end -1 is that of the file."""
        for name, unit in self.units.items():
            text = values.get(name, "").strip()
            if text and unit != 1.0 and float_of(text) > 0:
                unit = unit or 1 / (rate_of(places.find(values.get("path", ""), where)) or math.nan)
                values[name] = repr(float_of(text) * unit)
        end = values.pop("end", "").strip()
        in_samples = self.units["end"] == SAMPLES  # beside which SpeechBrain's duration is that of the whole file
        if not end or float_of(end) == -1 or (values.get("duration", "").strip() and not in_samples):
            return
        start = seconds(values, "start", 0.0, where)
        last = seconds({"end": end}, "end", math.nan, where)
        if last <= start:
            raise InputError(
                f"{where}: the end {end} does not lie after the start {start:g}; correct them or leave them empty"
            )
        values["duration"] = repr(last - start)


def meaning_of(name: str, names: Sequence[str]) -> str:
    """Which of ours a column may be, "" for none. Beside an onset the offset is the end, else it is the start."""
    time = TIME.fullmatch(squeezed(name))
    if time and time[1] == "offset":
        return "end" if "onset" in map(squeezed, names) else "start"
    return TIMES[time[1]] if time else MEANING.get(squeezed(name), "")


def unit_of(name: str) -> float:
    """The unit in the name of a time, such as start_ms, in seconds; SAMPLES for samples."""
    time = TIME.fullmatch(squeezed(name))
    unit = time[2] if time else None
    return UNITS.get(unit, SAMPLES) if unit else 1.0


def float_of(text: str) -> float:
    """A number, NaN for anything else."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def rate_of(path: str) -> int:
    """The sample rate of a file; 0 if it cannot be opened."""
    try:
        return audio.info(path).sample_rate
    except InputError:
        return 0


def make_row(values: dict[str, str], places: Places, where: str) -> Utterance:
    """An utterance from strings under our names. `where` names the row in errors; InputError for a missing path or a bad time."""
    path = values.get("path", "")
    if not path:
        raise InputError(f"{where} has no path; fill it in or remove the row")
    extra = {name: values[name] for name in values.keys() - COLUMNS}
    known = {name: " ".join(values.get(name, "").split()) for name in ("channel", "speaker", "label", "text", "split")}
    start = seconds(values, "start", 0.0, where)
    return Utterance(
        id=values.get("id") or path + (f"@{start:g}" if start else ""),
        path=places.find(path, where),
        start=start,
        duration=seconds(values, "duration", math.nan, where),
        extra=extra,
        **known,
    )


def clock(time: str) -> float:
    """01:02:03,5 -> seconds."""
    seconds = 0.0
    for part in time.replace(",", ".").split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def seconds(values: dict[str, str], name: str, default: float, where: str) -> float:
    """A time in seconds, which may be written 1:02.5 or 00:01:02.5; `default` where the field is empty or NaN. InputError for
    anything that is not a time."""
    text = values.get(name, "").strip()
    try:
        value = clock(text) if CLOCK.fullmatch(text) else float(text or "nan")
    except ValueError:
        value = -1.0
    if value < 0 or math.isinf(value):
        raise InputError(f"{where}: {name} = {values[name]!r} is not a number of seconds; correct it or leave it empty")
    return default if math.isnan(value) else value
