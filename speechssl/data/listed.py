"""Tables that lie in a folder of audio: rows with a path, or lines that begin with the name of a recording."""

import csv
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

from speechssl.core.errors import InputError
from speechssl.core.lines import first_text, read_lines
from speechssl.data.aligned import root_of
from speechssl.data.columns import NoPath, Reading
from speechssl.data.lhotse import partner_of
from speechssl.data.manifest import Utterance
from speechssl.data.separated import DELIMITERS, OURS, header_of
from speechssl.data.tables import read_rows
from speechssl.data.tree import SPLITS, Tree, is_ending, split_folder

TABLES = (".tsv", ".csv", ".jsonl", ".parquet", ".json", ".arrow", ".feather", ".gz", ".yaml", ".yml", ".stm", ".ctm")
NAMELESS = "columns have no names"
LINES = (
    *("", ".txt", ".tsv", ".csv", ".list", ".lst", ".trans", ".transcript", ".transcription", ".data", ".text"),
    *(".dot", ".trn", ".trl"),  # WSJ's, NIST's, GlobalPhone's
)
TEXTS = re.compile(
    r"(?i)(^|[^a-z])(trans|transcripts?|transcriptions?|text|texts|prompts?|metadata|line_index|sentences?)([^a-z]|$)"
)
CONTAINERS = {  # folders that are named after what they hold, not after who speaks
    *("wav", "wavs", "flac", "mp3", "ogg", "sound", "sounds", "audio", "audios", "clips", "samples", "data", "speech"),
    *("recordings", "wav_files", "audio_files"),
}


def speaker_of(path: Path, folders: Sequence[str]) -> str:
    """The speaker of a recording by the folders above it: their names, without those such as wav.

    Only the upper one of speaker/chapter where the file is called speaker_chapter_number, as in LibriTTS and MLS.
    """
    if tuple(re.split(r"[-_]", path.stem)[:2]) == path.parts[-3:-1]:
        return path.parts[-3]
    return "/".join(name for name in folders if name.lower() not in CONTAINERS)


def with_folders(rows: list[Utterance], table: Path, tree: Tree) -> list[Utterance]:
    """The rows of a table without speakers, or without splits, with those by the folders of the recordings, as in a folder."""
    splits = {} if any(row.split for row in rows) else tree.splits
    spoken, done = any(row.speaker for row in rows), []
    for row in rows:
        path = Path(row.path)
        base = table.parent if table.parent in path.parents else tree.folder
        folders = path.relative_to(base).parts[:-1] if base in path.parents else ()
        speaker = row.speaker if spoken else speaker_of(path, [name for name in folders if not split_folder(name)])
        done.append(replace(row, speaker=speaker, split=row.split or splits.get(path, "")))
    return done


def split_of(name: str) -> str:
    """train.tsv, line_index_train.tsv, the folder train -> "train"; "" where a name holds no split, or several."""
    found = {SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def tables_of(tree: Tree) -> list[Path]:
    """The files that may be tables, the likeliest first: metadata.*, those of splits, those called as texts are, then by name."""
    found = [path for path in tree.others if path.suffix.lower() in {*TABLES, *LINES, ".xml"} and path.is_file()]
    skip = (".rejected.tsv", ".cache.jsonl")  # what `prepare` writes
    found = [path for path in found if not path.name.endswith(skip)]

    def place(path: Path) -> tuple[bool, bool, bool, str]:
        return path.stem.lower() != "metadata", not split_of(path.stem), not TEXTS.search(path.name), str(path)

    return sorted(found, key=place)


def read_listed(table: Path, tree: Tree, reading: Reading) -> tuple[list[Utterance], str]:
    """The rows of a table of recordings of the tree, and why there are none in words ("" if it is no table at all)."""
    rows, problem, kind = [], "", table.suffix.lower()
    left_out, reading = reading.left_out, replace(reading, left_out=None if reading.left_out is None else [])
    try:
        headed = naming(table, tree, reading) if kind in LINES else None
        if kind == ".xml":
            rows = [found(row, table, tree) for row in read_recordings(table)]
        elif kind in LINES and not headed:
            rows = read_lines_of(table, tree, reading)
        if not rows and (headed or kind in TABLES):
            rows = [found(row, table, tree) for row in read_rows(table, headed or reading)]
    except NoPath:
        problem = f"none of its columns names recordings; if one does: {by_hand(table, '--columns path=COLUMN ')}"
    except InputError as error:
        problem = str(error).removeprefix(str(table)).lstrip(": ")
        if kind in TABLES[-4:]:
            return [], problem  # of a form that nothing else has
    if not rows:
        return [], problem if kind in TABLES[:4] or NAMELESS in problem else ""
    there = {row.path for row in rows if row.path in tree.paths or os.path.isfile(row.path)}
    if not covers(there, len({row.path for row in rows}), tree):
        return [], f"{sum(row.path not in there for row in rows)} of its {len(rows)} rows name no audio of the folder"
    if not any(row.text or row.label or row.split for row in rows):
        return [], "" if is_ours(table) else "it has neither text nor labels"
    if left_out is not None:
        left_out += reading.left_out or []
    return with_folders(rows, table, tree), ""


def companions(table: Path) -> list[Path]:
    """The files that are read with a table: lhotse's other manifest, or the texts in lines of their own."""
    if table.suffix.lower() in (".yaml", ".yml"):
        return list(table.parent.glob(f"{glob.escape(table.stem)}.*"))
    partner = partner_of(table)
    return [table.with_suffix(".wrd"), table.with_suffix(".ltr"), *([partner] if partner else [])]


def by_hand(table: Path, options: str = "") -> str:
    """The command that reads a table by itself."""
    return f"`speechssl prepare {table} {options}--out x.tsv`"


def read_recordings(table: Path) -> list[Utterance]:
    """The recordings of NCHLT's corpora of South African languages: nchlt_zul.trn.xml and .tst.xml. [] for any other XML."""
    text = "\n".join(read_lines(table))
    if "<recording " not in text:
        return []
    try:
        root = root_of(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{table} is not whole ({error}); copy it again") from None
    rows, split = [], {".trn": "train", ".tst": "test"}.get(Path(table.stem).suffix, "")
    for speaker in root.iter("speaker"):
        extra = {name: speaker.get(name, "") for name in ("age", "gender") if speaker.get(name)}
        for one in speaker.iter("recording"):
            path, said = one.get("audio", ""), " ".join((one.findtext("orth") or "").split())
            place = str(table.parent / path)
            row = Utterance(id=path, path=place, speaker=speaker.get("id", ""), text=said, split=split, extra=extra)
            rows.append(row)
    return rows


def covers(there: set[str], count: int, tree: Tree) -> bool:
    """Whether a table of `count` recordings, of which some are there, is one of the folder: it names half of those in the folders
    in which they lie, as the table of a corpus that is there in part, or half of its own are there."""
    around = sum(tree.counts[folder] for folder in {os.path.dirname(path) for path in there})
    return bool(there) and 2 * len(there) >= min(count, around or count)


def naming(table: Path, tree: Tree, reading: Reading) -> Reading | None:
    """How a table is read whose first line names the columns, with that of the paths by its name, else as the only one that
    names recordings; None if there is no such line."""
    text = first_text(table, reading.encoding)
    if header := header_of(text, reading):
        return reading if not any(tree.recording(name, table.parent) for name in header[1]) else None
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    head, *rows = [row for row in csv.reader(text.split("\n")[:21], delimiter=delimiter) if row] or [[]]
    hits = [[tree.recording(cell, table.parent) is not None for cell in column] for column in zip(*rows)]
    names = [name for name, hit in zip(head, hits) if hit and sum(hit) >= 0.8 * len(hit)]
    if len(head) < 2 or len(names) != 1 or is_a_file(names[0], tree, table.parent):
        return None
    return replace(reading, columns={**reading.columns, "path": names[0]})


def is_a_file(name: str, tree: Tree, folder: Path) -> bool:
    """Whether the first cell of a column is a recording, perhaps one that is not there, not the name of the column."""
    return re.search(r"\d|\.\w{2,5}$", name) is not None or tree.recording(name, folder) is not None


def found(row: Utterance, table: Path, tree: Tree) -> Utterance:
    """A row with the path at which its recording lies. An id that only repeats the path starts from the top folder."""
    split = row.split or split_of(table.stem) or split_of(table.parent.name if table.parent != tree.folder else "")
    given = os.path.relpath(row.path, table.parent) if row.path.startswith(str(table.parent)) else row.path
    path = tree.at(row.path) or (None if os.path.isfile(row.path) else tree.recording(given, table.parent))
    if path is None:
        return replace(row, split=split)
    start = f"@{row.start:g}" if row.start else ""
    name = path.relative_to(tree.folder).as_posix() + start if row.id in (given, given + start) else row.id
    return replace(row, path=str(path), id=name, split=split)


def is_ours(table: Path) -> bool:
    """Whether `prepare` wrote a table: one without texts lies in its folder for other reasons."""
    with open(table, encoding="utf-8", errors="replace") as file:
        return file.readline().startswith(OURS)


ARCTIC = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
DECIMALS = re.compile(r"\d+\.\d+([ \t]+\d+\.\d+)*")
SPHINX = re.compile(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\(([^()\s]+)\)")


def read_lines_of(table: Path, tree: Tree, reading: Reading) -> list[Utterance]:
    """The rows of a file without column names whose lines hold the name of a recording and its text; [] if it is none.

    Between both may be a tab, a bar, a comma or a space; the forms of festival, ( a_1 "text" ), and Sphinx, text (a_1), are
    read too. InputError if there are more columns and nothing says what they are.
    """
    if not first_text(table, reading.encoding):
        return []
    lines = numbered(table, [line for line in read_lines(table, reading.encoding) if line.strip()])
    for cut in (cut_fleurs, cut_tabs, cut_bars, cut_form, cut_commas, cut_spaces):
        pairs = [cut(line) for line in (lines if TEXTS.search(table.name) else islice(lines, 50))]
        meant = [tree.recording(key, table.parent) for key, _ in pairs]
        there = {str(path) for path in meant if path}
        if not there or (sum(map(bool, meant)) < 0.8 * len(meant) and not covers(there, len(meant), tree)):
            continue
        if meant[0] is None and all(meant[1:]) and not is_a_file(pairs[0][0], tree, table.parent):
            continue  # the first line names the columns
        pairs = [cut(line) for line in lines]
        fields = fields_of([rest for _, rest in pairs])
        texts = fields.get("text")
        if texts is None or (not TEXTS.search(table.name) and all(len(text.split()) < 2 for text in texts)):
            raise InputError(f"{table}: its {NAMELESS}; add a first line such as path<TAB>speaker<TAB>text")
        return list(rows_of([key for key, _ in pairs], fields, table, tree))
    return []


def numbered(table: Path, lines: list[str]) -> list[str]:
    """The lines of GlobalPhone's HA001.trl, in which "; 12:" stands above the text of HA001_12; other lines as they are."""
    marks = [re.fullmatch(r";\s*(\d+):", line.strip()) for line in lines]
    if not any(marks):
        return lines
    return [f"{table.stem}_{mark[1]} {text}" for mark, text in zip(marks, lines[1:]) if mark]


def lists_recordings(table: Path, tree: Tree, reading: Reading) -> bool:
    """Whether a transcript by its name, in a folder of such, holds lines that begin with the names of other recordings."""
    if table.suffix.lower() not in LINES or str(table.parent) in tree.counts:
        return False
    keys = [(line.split() or [""])[0] for line in first_text(table, reading.encoding).split("\n")[:2]]
    return len(set(keys)) == 2 and all(tree.recording(key, table.parent) for key in keys)


def cut_fleurs(line: str) -> tuple[str, list[str]]:
    """FLEURS: number, name, raw text, text, letters, samples, gender."""
    fields = line.split("\t")
    fits = len(fields) == 7 and fields[5].isdigit() and fields[6].strip() in ("MALE", "FEMALE", "OTHER")
    return (fields[1], [fields[3]]) if fits else ("", [])


def cut_tabs(line: str) -> tuple[str, list[str]]:
    """key<TAB>fields."""
    key, *rest = line.split("\t")
    return (key.strip(), rest) if rest else ("", [])


def cut_bars(line: str) -> tuple[str, list[str]]:
    """key|fields, as in LJSpeech's metadata.csv."""
    key, *rest = line.split("|")
    return (key.strip(), rest) if rest else ("", [])


def cut_commas(line: str) -> tuple[str, list[str]]:
    """key,fields as in CSV."""
    key, *rest = next(csv.reader([line], skipinitialspace=True), [""])
    return (key.strip(), rest) if rest else ("", [])


def cut_form(line: str) -> tuple[str, list[str]]:
    """( key "text" ), or text (key)."""
    if match := ARCTIC.fullmatch(line.strip()):
        return match[1], [match[2]]
    match = SPHINX.fullmatch(line.strip())
    return (match[2], [match[1]]) if match else ("", [])


def cut_spaces(line: str) -> tuple[str, list[str]]:
    """key text, as in Kaldi's file `text` and LibriSpeech's .trans.txt, or key: text; without the times of IEMOCAP's
    key [0.1-0.9]: text."""
    key, _, rest = line.strip().partition(" ")
    rest = re.sub(r"^\s*(\[\d+\.\d+-\d+\.\d+\]:|[:=])", "", rest).strip()
    return (key.rstrip(":"), [rest]) if rest else ("", [])


def fields_of(columns: list[list[str]]) -> dict[str, list[str]]:
    """Name -> the cells of the fields after the key; {} if it is not clear which is which.

    One field is the text. Of two, one of single words beside one of sentences is the speaker (VITS); else they are the text
    and its normalised form, which is preferred (LJSpeech). Decimal numbers, as CSS10's durations, are no text.
    """
    width = max(map(len, columns))
    rows = [[cell.strip() for cell in row] + [""] * (width - len(row)) for row in columns]
    found = [cells for cells in map(list, zip(*rows)) if not all(map(DECIMALS.fullmatch, cells))]
    if len(found) == 1:
        return {"text": found[0]}
    if len(found) != 2:
        return {}
    single = [all(len(cell.split()) < 2 for cell in cells) for cells in found]
    if single[0] != single[1]:
        text = single.index(False)
        return {"text": found[text], "speaker": found[1 - text]}
    return {"text": [after or before for before, after in zip(*found)], "other_text": found[0]}


def rows_of(keys: list[str], fields: dict[str, list[str]], table: Path, tree: Tree) -> Iterator[Utterance]:
    """The rows of a file of lines; the split is the name of the file or of its folder, the speaker may stand in utt2spk."""
    beside = table.with_name("utt2spk")
    pairs = (line.split() for line in read_lines(beside)) if beside.is_file() else ()
    speakers = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    for key, *cells in zip(keys, *fields.values()):
        values = {name: " ".join(cell.split()) for name, cell in zip(fields, cells)}
        known = tree.recording(key, table.parent)
        row = Utterance(
            id=key,
            path=str(known or table.parent / (key if is_ending(Path(key).suffix) else key + ".wav")),
            text=values.pop("text"),
            speaker=values.pop("speaker", speakers.get(key, "")),
            extra=values,
        )
        yield found(row, table, tree)
