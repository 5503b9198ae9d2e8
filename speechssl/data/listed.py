"""Tables that lie in a folder of audio: rows with a path, or lines that begin with the name of a recording."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.files import read_text
from speechssl.data.manifest import COLUMNS, Utterance, read_rows
from speechssl.data.tree import Tree, is_ending

TABLES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
LINES = ("", ".txt", ".tsv", ".csv", ".list", ".lst", ".trans", ".transcript", ".transcription", ".data", ".text")
TEXTS = re.compile(
    r"(?i)(^|[^a-z])(trans|transcripts?|transcriptions?|text|texts|prompts?|metadata|line_index|sentences?)([^a-z]|$)"
)
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "devel", "valid", "validation", "val"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of(name: str) -> str:
    """train.tsv, line_index_train.tsv, the folder train -> "train"; "" where a name holds no split, or several."""
    found = {SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def tables_of(tree: Tree) -> list[Path]:
    """The files that may be tables, the likeliest first: metadata.*, those of splits, then by name."""
    found = [path for path in tree.others if path.suffix.lower() in {*TABLES, *LINES} and path.is_file()]
    skip = (".rejected.tsv", ".cache.jsonl")  # what `prepare` writes
    found = [path for path in found if not path.name.endswith(skip)]
    return sorted(found, key=lambda path: (path.stem.lower() != "metadata", not split_of(path.stem), str(path)))


def read_listed(table: Path, tree: Tree) -> tuple[list[Utterance], str]:
    """The rows of a table of recordings of the tree, and why there are none in words ("" if it is no table at all)."""
    rows, problem = [], ""
    if table.suffix.lower() in TABLES:
        try:
            rows = [found(row, table, tree) for row in read_rows(table)]
        except InputError as error:
            problem = str(error).removeprefix(str(table)).strip()
    if not rows and table.suffix.lower() in LINES:
        rows, refused = read_lines_of(table, tree)
        problem = refused or problem
    there = [row for row in rows if row.path in tree.paths]
    if not rows:
        return [], problem if table.suffix.lower() in TABLES[:3] or "columns" in problem else ""
    if 2 * len(there) < len(rows):
        return [], f"{len(rows) - len(there)} of its {len(rows)} rows name no audio of the folder"
    if not any(row.text or row.label or row.split for row in rows):
        return [], "" if is_ours(table) else "it has neither text nor labels"
    return rows, ""


def found(row: Utterance, table: Path, tree: Tree) -> Utterance:
    """A row with the path at which its recording lies. An id that only repeats the path starts from the top folder."""
    given = os.path.relpath(row.path, table.parent) if row.path.startswith(str(table.parent)) else row.path
    path = tree.recording(given, table.parent)
    if path is None:
        return row
    start = f"@{row.start:g}" if row.start else ""
    name = path.relative_to(tree.folder).as_posix() + start if row.id in (given, given + start) else row.id
    split = (
        row.split
        or split_of(table.stem)
        or (SPLITS.get(table.parent.name.lower(), "") if table.parent != tree.folder else "")
    )
    return replace(row, path=str(path), id=name, split=split)


def is_ours(table: Path) -> bool:
    """Whether `prepare` wrote a table: one without texts lies in its folder for other reasons."""
    with open(table, encoding="utf-8", errors="replace") as file:
        return file.readline().startswith("\t".join(COLUMNS))


ARCTIC = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
SPHINX = re.compile(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\(([^()\s]+)\)")


def read_lines_of(table: Path, tree: Tree) -> tuple[list[Utterance], str]:
    """The rows of a file whose lines hold the name of a recording and its text, and why there are none.

    Between both may be a tab, a bar or a space; the forms of festival, ( a_1 "text" ), and Sphinx, text (a_1), are read too.
    """
    try:
        with open(table, "rb") as file:
            if b"\0" in file.read(4096):
                return [], ""
        lines = [line for line in read_text(table).split("\n") if line.strip()]
    except InputError as error:
        return [], str(error).removeprefix(str(table)).strip()
    for cut in (cut_fleurs, cut_tabs, cut_bars, cut_form, cut_spaces):
        pairs = [cut(line) for line in islice(lines, 50)]
        hits = [key for key, _ in pairs if tree.recording(key, table.parent)]
        if not hits or len(hits) < 0.8 * len(pairs):
            continue
        pairs = [cut(line) for line in lines]
        columns = [rest for _, rest in pairs]
        texts, speakers = text_of(columns)
        if texts is None:
            return (
                [],
                f"its {max(map(len, columns)) + 1} columns have no names: add a first line such as path<TAB>speaker<TAB>text",
            )
        if not TEXTS.search(table.name) and all(len(text.split()) < 2 for text in texts):
            return (
                [],
                "its columns have no names, and the second may be no text: add a first line such as path<TAB>text",
            )
        return list(rows_of([key for key, _ in pairs], texts, speakers, table, tree)), ""
    return [], ""


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


def cut_form(line: str) -> tuple[str, list[str]]:
    """( key "text" ), or text (key)."""
    if match := ARCTIC.fullmatch(line.strip()):
        return match[1], [match[2]]
    match = SPHINX.fullmatch(line.strip())
    return (match[2], [match[1]]) if match else ("", [])


def cut_spaces(line: str) -> tuple[str, list[str]]:
    """key text, as in Kaldi's file `text` and LibriSpeech's .trans.txt."""
    key, _, rest = line.strip().partition(" ")
    return (key, [rest.strip()]) if rest else ("", [])


def text_of(columns: list[list[str]]) -> tuple[list[str] | None, list[str]]:
    """The texts in the fields after the key, and the speakers if there is such a field; None if it is not clear which is which.

    One field is the text. Of two, one of single words beside one of sentences is the speaker (VITS); else they are the text
    and its normalised form, which is preferred (LJSpeech).
    """
    width = max(map(len, columns))
    rows = [[cell.strip() for cell in row] + [""] * (width - len(row)) for row in columns]
    if width == 1:
        return [row[0] for row in rows], []
    single = [all(len(row[place].split()) < 2 for row in rows) for place in range(width)]
    if width == 2 and single[0] != single[1]:
        text = single.index(False)
        return [row[text] for row in rows], [row[1 - text] for row in rows]
    if width == 2:
        return [row[1] or row[0] for row in rows], []
    return None, []


def rows_of(keys: list[str], texts: list[str], speakers: list[str], table: Path, tree: Tree) -> Iterator[Utterance]:
    """The rows of a file of lines; the split is the name of the file or of its folder."""
    for place, (key, text) in enumerate(zip(keys, texts)):
        path = key if is_ending(Path(key).suffix) else key + ".wav"
        row = Utterance(id=key, path=str(table.parent / path), text=" ".join(text.split()))
        row = replace(row, speaker=speakers[place] if speakers else "")
        known = tree.recording(key, table.parent)
        yield found(replace(row, path=str(known)) if known else row, table, tree)
