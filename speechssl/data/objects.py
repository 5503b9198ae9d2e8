"""Tables of objects: JSON, JSON Lines, Parquet and Arrow, those of NeMo, SpeechBrain, pandas and Hugging Face among them."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, replacing
from speechssl.core.lines import first_text, read_lines
from speechssl.data.columns import AudioInside, Header, NoPath, Reading, meaning_of, names_a_path
from speechssl.data.manifest import Utterance
from speechssl.data.places import Places

PARQUET, FEATHER, STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
MANY = 64  # rows that are read at once; each may hold minutes of audio
CLIP = {"start": "", "end": "", "duration": ""}  # times beside audio that lies in the table tell where it was cut from
PAIR = re.compile(r"(\w+): ('[^']*'|[^,}]*)")
ENDING = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}  # by how a file begins


def read_objects(path: Path, objects: Iterable[tuple[str, dict[str, Any]]], reading: Reading) -> Iterator[Utterance]:
    """The rows that some objects are, each with its place in the file; objects may have different keys."""
    headers: dict[tuple[str | bool, ...], Header] = {}
    nameless: list[tuple[str, NoPath]] = []
    places, unpack = Places.of(path), Unpack(path, reading)
    for where, values in in_parts(objects):
        audio = next(
            (name for name, value in values.items() if isinstance(value, dict) and names_a_path([name], reading)), ""
        )
        whole = bool(audio) and values[audio].get("bytes") is not None
        if audio:
            values = {**values, **unpack(audio, values[audio], where)}
        shape = (audio, whole, *values)
        if shape not in headers:
            known = (CLIP if whole else {}) | {"path": audio} if audio else {}
            try:
                headers[shape] = Header(tuple(values), replace(reading, columns=known | reading.columns), path, where)
            except NoPath as error:
                nameless.append((where, error))
                if reading.left_out is None:
                    break
                continue
        header, cells = headers[shape], list(map(cell, values.values()))
        for row in reading.usable(where, header.path(cells), partial(header.row, cells, places, where)):
            yield replace(row, id=Path(row.path).name) if whole and row.id == row.path else row
    if nameless and (not headers or reading.left_out is None):
        raise nameless[0][1]
    for where, error in nameless:
        reading.leave_out(where, error)


def in_parts(objects: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects, and those with a list of `segments`, as GigaSpeech's recordings, as one for each of these."""
    for where, values in objects:
        parts = values.get("segments")
        if not (isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts)):
            yield where, values
            continue
        for number, part in enumerate(parts, 1):
            taken = {meaning_of(name, list(part)) for name in part} - {""} | {"id", "start", "end", "duration", "text"}
            whole = {name: value for name, value in values.items() if not isinstance(value, (list, dict))}
            own = {name: value for name, value in part.items() if name != "id"}
            yield f"{where} segment {number}", {k: v for k, v in whole.items() if meaning_of(k, [k]) not in taken} | own


def cell(value: Any) -> str:
    """A value as a string: none and NaN are empty, lists and objects are JSON."""
    if value is None or value != value:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)


class Unpack:
    """Turns an object that stands for audio into columns; what Hugging Face's {"bytes", "path"} holds is written into the folder
    `reading.unpack`."""

    def __init__(self, table: Path, reading: Reading) -> None:
        self.table, self.into, self.names = table, reading.unpack, reading.unpacked

    def __call__(self, column: str, value: dict[str, Any], where: str) -> dict[str, Any]:
        """The file under the name of its column, and the samples that SpeechBrain cuts from it. InputError for audio that
        is in no file and cannot be written into one."""
        if "bytes" in value and value["bytes"] is not None:
            return {column: self.write(value["bytes"], PurePosixPath(value.get("path") or "").name, where)}
        if "array" in value:
            raise InputError(
                f"{where} holds samples instead of a file; write the table as Parquet, with its audio inside"
            )
        return {column: value.get("path") or value.get("file")} | {
            key: value[key] for key in ("start", "stop") if key in value
        }

    def write(self, data: bytes, name: str, where: str) -> str:
        """A file with this data, of this name unless another one has it."""
        if self.into is None:
            remedy = f"`speechssl prepare {self.table} --out all.tsv`"
            raise AudioInside(f"{where} holds the audio itself; write it into files first: {remedy}")
        if not name or name in self.names:
            number = f"{len(self.names):08d}"
            name = f"{number}_{name}" if name else number + ENDING.get(bytes(data[:4]), ".mp3")
        self.names.add(name)
        file = Path(os.path.abspath(output_folder(self.into) / name))
        if not (file.exists() and file.read_bytes() == data):
            with replacing(file) as draft:
                draft.write_bytes(data)
        return str(file)


def is_json(head: str) -> bool:
    """Whether a text begins like JSON."""
    return head.lstrip()[:1] in ("{", "[")


def read_json(path: Path, head: str, reading: Reading) -> Iterator[Utterance]:
    """JSON Lines such as NeMo's, a list of objects, an object of objects such as SpeechBrain's, or what pandas writes."""
    yield from read_objects(path, json_objects(path, head, reading), reading)


def json_objects(path: Path, head: str, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a file, each with its place there. head: how it begins, if that is known."""
    head = head or first_text(path, reading.encoding)
    yield from json_lines(path, reading) if has_lines(head) else json_entries(path, reading)


def has_lines(head: str) -> bool:
    """Whether the first line is an object on its own, which holds more than further objects and lists."""
    try:
        first = json.loads(head.lstrip().partition("\n")[0])
    except ValueError:
        return "\n" not in head.strip() and len(head) >= 2**16  # a first line that is very long
    if not isinstance(first, dict) or ("\n" not in head.strip() and holds_rows(first)):
        return False
    return not all(isinstance(value, (dict, list)) for value in first.values())


def holds_rows(values: dict[str, Any]) -> bool:
    """Whether an object, which may stand in one line, is a whole table: it has a list of objects with a path each, as that of
    GigaSpeech, or its names are files and its values texts."""
    if all(isinstance(value, str) for value in values.values()):
        return not names_a_path(values, Reading())
    heads = [value[0] for value in values.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return any(names_a_path(head, Reading()) for head in heads)


def json_lines(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of JSON Lines."""
    for number, line in enumerate(read_lines(path, reading.encoding), 1):
        if line.strip():
            where = f"{path} line {number}"
            try:
                values = json.loads(line)
            except ValueError:
                values = None
            if not isinstance(values, dict):
                reading.leave_out(where, InputError(f"{where} is not a JSON object; correct the line"))
                continue
            yield where, values


def json_entries(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in one JSON document. InputError if there are none, or one name stands for two of them."""
    try:
        data = json.loads("\n".join(read_lines(path, reading.encoding)), object_pairs_hook=once)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); write it again") from None
    named = (
        {str(number): item for number, item in enumerate(data, 1)} if isinstance(data, list) else rows_in(data, reading)
    )
    if named is data and all(isinstance(text, str) for text in named.values()):  # file -> text
        named = {name: {"path": name, "text": text} for name, text in named.items()}
    if not all(isinstance(values, dict) for values in named.values()):
        raise InputError(f"{path} holds no objects with a path each; write it as a list of objects, one for each clip")
    for name, values in named.items():  # the names of an object's own values are ids
        yield f"{path}: {name}", {"id": name, **values} if named is data else values


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. ValueError if a name stands in it twice, of which the first value would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {name!r} stands twice in one object")
    return values


def rows_in(data: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """The objects in an object: its values, the one list of objects in it, or rows that pandas writes column by column."""
    if isinstance(data.get("columns"), list) and isinstance(data.get("data"), list):
        return {str(n): dict(zip(data["columns"], row, strict=False)) for n, row in enumerate(data["data"], 1)}
    if names_a_path(data, reading):
        columns = {
            k: v if isinstance(v, dict) else dict(enumerate(v, 1))
            for k, v in data.items()
            if isinstance(v, (dict, list))
        }
        rows = dict.fromkeys(key for column in columns.values() for key in column)
        return {str(key): {name: column.get(key) for name, column in columns.items()} for key in rows}
    lists = [value for value in data.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return {str(n): item for n, item in enumerate(lists[0], 1)} if len(lists) == 1 else data


def is_yaml(head: str) -> bool:
    """Whether a text begins as MuST-C's lists of segments."""
    return re.match(r"- \{.*\bwav: ", head) is not None


def read_yaml(path: Path, _head: str, reading: Reading) -> Iterator[Utterance]:
    """MuST-C's segments, `- {duration: 2.1, offset: 0.3, speaker_id: spk.1, wav: ted_1.wav}`, and those of mTEDx and IWSLT; the
    texts are the lines of the files of the same name beside it, such as train.en and train.de in a folder en-de.

    InputError if these have another number of lines, or if none of several is known to be what is said.
    """
    segments = [dict(PAIR.findall(line)) for line in read_lines(path, reading.encoding) if line.startswith("-")]
    others = [
        one for one in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*")) if one.suffix not in (".yaml", ".yml")
    ]
    texts = {one.suffix[1:]: list(read_lines(one, reading.encoding)) for one in others}
    for name, lines in texts.items():
        if len(lines) != len(segments):
            raise InputError(
                f"{path} has {len(segments)} segments, and {path.stem}.{name} {len(lines)} lines; copy them again"
            )
    said = [name for name in texts if len(texts) == 1 or any(folder.startswith(f"{name}-") for folder in path.parts)]
    if texts and not said and "text" not in reading.columns:
        remedy = f"`speechssl prepare {path} --columns text={next(iter(texts))} --out x.tsv`"
        raise InputError(f"{path}: nothing says which of {', '.join(texts)} is spoken; say so: {remedy}")
    rows = (
        (f"{path} segment {number}", values | {name: lines[number - 1] for name, lines in texts.items()})
        for number, values in enumerate(segments, 1)
    )
    yield from read_objects(path, rows, replace(reading, columns={"text": "".join(said[:1])} | reading.columns))


def read_arrow(path: Path, _head: str, reading: Reading) -> Iterator[Utterance]:
    """Parquet, Feather, or an Arrow stream as Hugging Face caches it; InputError if it is damaged."""
    yield from read_objects(path, arrow_rows(path, [path]), reading)


def is_saved_dataset(folder: Path) -> bool:
    """Whether datasets' save_to_disk wrote a folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def read_saved_dataset(folder: Path, _head: str, reading: Reading) -> Iterator[Utterance]:
    """A folder of datasets' save_to_disk."""
    names = json.loads((folder / "state.json").read_text(encoding="utf-8")).get("_data_files", [])
    yield from read_objects(folder, arrow_rows(folder, [folder / file["filename"] for file in names]), reading)


def arrow_rows(source: Path, files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of Arrow or Parquet files, of which only a few exist at a time; class numbers become their names."""
    import pyarrow as pa

    number = 0
    try:
        for file in files:
            for batch in batches(file):
                classes = class_names(batch.schema)
                for values in batch.to_pylist():
                    number += 1
                    for name in classes.keys() & values.keys():
                        if isinstance(values[name], int) and 0 <= values[name] < len(classes[name]):
                            values[name] = classes[name][values[name]]
                    yield f"{source} row {number}", values
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{source} cannot be read ({' '.join(str(error).split())}); it is damaged, copy it again"
        ) from None


def batches(file: Path) -> Iterator[Any]:
    """The record batches of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.open("rb") as opened:
        head = opened.read(6)
    if head.startswith(PARQUET):
        yield from pq.ParquetFile(file).iter_batches(batch_size=MANY)
    elif head.startswith(FEATHER):
        reader = pa.ipc.open_file(file)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(file)


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names of the classes in the columns that datasets stores as numbers."""
    known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {name: kind["names"] for name, kind in known.items() if isinstance(kind, dict) and kind.get("names")}
