"""Tables of separated values: our TSV, anybody's CSV, fairseq's TSV, and lists without a header such as LJSpeech's."""

import csv
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.columns import Header, Reading, make_row, names_a_path, rate_of
from speechssl.data.manifest import COLUMNS, Utterance
from speechssl.data.places import ENDINGS, Places

DELIMITERS = ("\t", ",", ";", "|")
OURS = "\t".join(COLUMNS[:4])  # how a manifest of ours begins
PLAIN: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
EXCEL = re.compile("sep=(.)")  # a first line that tells Excel the delimiter
csv.field_size_limit(2**27)  # the transcript of a long recording


def fields(lines: Iterator[str], delimiter: str, quoting: dict[str, Any]) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row that is not empty. csv.Error where the quotes cannot be understood."""
    if quoting is PLAIN:
        for number, line in enumerate(lines, 1):
            if line.strip():
                cells = line.split(delimiter)
                yield number, cells if delimiter == "\t" else [cell.strip() for cell in cells]
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True, **quoting)
    yield from ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells))


def header_of(text: str, reading: Reading) -> tuple[str, list[str]] | None:
    """The delimiter and the column names in the first row of a text, if one of these is that of the audio."""
    found = EXCEL.fullmatch(text.partition("\n")[0])
    lines = text.split("\n")[1:] if found else text.split("\n")
    for delimiter in found[1] if found else DELIMITERS:
        row = next(csv.reader((line + "\n" for line in lines), delimiter=delimiter, **quotes(text)), [])
        names = [clean(name) for name in row]
        if names_a_path(names, reading):
            return delimiter, names
    return None


def clean(name: str) -> str:
    """A column name; "" for the index that pandas writes without one."""
    return re.sub(r"^Unnamed: \d+$", "", name.strip())


def quotes(text: str) -> dict[str, Any]:
    """The quotes of a table with any: single ones if its first name stands in them. Blanks may stand before a quote."""
    return {"quotechar": "'" if text.startswith("'") else '"', "skipinitialspace": True}


class Shape(NamedTuple):
    """What a table looks like under some quoting. even: every row has as many fields as the header. quotes, breaks: whether a
    field holds quotes, or a delimiter or line break."""

    even: bool = False
    quotes: bool = False
    breaks: bool = False


def shape(lines: Iterator[str], delimiter: str, quoting: dict[str, Any]) -> Shape:
    """Read a table to its end."""
    width, inside, breaks = 0, False, False
    try:
        for _, cells in fields(lines, delimiter, quoting):
            width = width or len(cells)
            if len(cells) != width:
                return Shape()
            text = "\0".join(cells)
            inside, breaks = inside or '"' in text, breaks or delimiter in text or "\n" in text
    except csv.Error:
        return Shape()
    return Shape(even=True, quotes=inside, breaks=breaks)


def quoting_of(path: Path, reading: Reading, head: str, delimiter: str) -> dict[str, Any]:
    """How a table quotes: as csv does, with backslashes, or not at all, so that every row has as many fields as the header.

    In tables with tabs or bars quotes are mostly plain characters, such as those of Common Voice and LJSpeech; they count if
    only so the rows are even, or if all are doubled as csv doubles them.
    """
    if delimiter == "\t" and head.startswith(OURS):
        return PLAIN
    quoted = quotes(head)
    if not any(quoted["quotechar"] in line for line in read_lines(path, reading.encoding)):
        return PLAIN
    found = shape(read_lines(path, reading.encoding), delimiter, quoted)
    if delimiter in "\t|":
        plain = shape(read_lines(path, reading.encoding), delimiter, PLAIN)
        return quoted if found.even and (not plain.even or (found.quotes and not found.breaks)) else PLAIN
    escaped = {**quoted, "escapechar": "\\"}
    for quoting in (escaped, PLAIN) if not found.even else ():
        if shape(read_lines(path, reading.encoding), delimiter, quoting).even:
            return quoting
    return quoted


def read_separated(path: Path, head: str, reading: Reading) -> Iterator[Utterance]:
    """A table whose first row names the columns. head: how it begins. InputError for rows with more fields than that."""
    delimiter, names = header_of(head, reading) or ("\t", head.partition("\n")[0].split("\t"))
    header, places, name = Header(names, reading, path), Places.of(path), str(path)
    quoting = quoting_of(path, reading, head, delimiter)
    skipped = bool(EXCEL.fullmatch(head.partition("\n")[0]))
    rows = fields(islice(read_lines(path, reading.encoding), int(skipped), None), delimiter, quoting)
    try:
        next(rows)
        for number, cells in rows:
            number += skipped
            where = f"{name} line {number}"
            if delimiter == ";":
                cells = [re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) if "," in cell else cell for cell in cells]
            yield from reading.usable(
                where, header.path(cells), partial(row_of, header, cells, delimiter, places, where)
            )
    except csv.Error as error:
        raise InputError(f"{path}: the quotes cannot be understood ({error}); save the table again as CSV") from None


def row_of(header: Header, cells: list[str], delimiter: str, places: Places, where: str) -> Utterance:
    """The utterance of a row. InputError as in Header.row, and if it has more fields than the header."""
    width = len(header.names)
    if len(cells) > width and any(cells[width:]):
        raise InputError(
            f"{where} has {len(cells)} fields but the first line names {width}; if {shown(delimiter)} is inside a field, "
            "replace it by a space" + ("" if delimiter == "\t" else " or quote the field")
        )
    return header.row(cells, places, where)


def shown(delimiter: str) -> str:
    """A delimiter in a sentence."""
    return "a tab" if delimiter == "\t" else repr(delimiter)


def is_fairseq(head: str) -> bool:
    """Whether a text begins with a root folder."""
    first = head.partition("\n")[0]
    return "\t" not in first and Path(first).is_absolute() and not first.lower().endswith(ENDINGS)


def read_fairseq(path: Path, head: str, reading: Reading) -> Iterator[Utterance]:
    """fairseq: the root folder, then path and number of samples at the file's own rate; where that cannot be read, the length is
    unknown. The transcripts are in the .wrd or .ltr file beside the TSV."""
    root, *lines = read_lines(path, reading.encoding)
    words, letters = path.with_suffix(".wrd"), path.with_suffix(".ltr")
    texts = [""] * len(lines)
    if words.exists():
        texts = list(read_lines(words, reading.encoding))
    elif letters.exists():
        spelled = read_lines(letters, reading.encoding)
        texts = [line.replace(" ", "").replace("|", " ").strip() for line in spelled]
    if len(texts) != len(lines):
        raise InputError(f"{path} has {len(lines)} rows but {len(texts)} transcripts lie beside it; they must match")
    places = Places([root, path.parent])
    for number, (line, text) in enumerate(zip(lines, texts, strict=True), 2):
        where = f"{path} line {number}"
        yield from reading.usable(where, line.partition("\t")[0], partial(fairseq_row, line, text, places, where))


def fairseq_row(line: str, text: str, places: Places, where: str) -> Utterance:
    """The utterance of a line. InputError if it is not of that form."""
    name, _, samples = line.partition("\t")
    if not samples.strip().isdigit():
        raise InputError(f"{where}: {line!r} is not `path<TAB>samples`; correct or remove it")
    rate = rate_of(places.find(name, where))
    values = {"path": name, "id": name, "duration": str(int(samples) / rate) if rate else "", "text": text}
    return make_row(values, places, where)


def is_list(path: Path, head: str) -> bool:
    """Whether the first line of a text begins with a file that is there, before a bar or the end of the line."""
    return Places.of(path).look(head.partition("\n")[0].partition("|")[0].strip())


def read_list(path: Path, head: str, reading: Reading) -> Iterator[Utterance]:
    """A list without a header: files, or as LJSpeech's id|text|normalised text; the last of these is the text."""
    places = Places.of(path)
    for number, cells in fields(read_lines(path, reading.encoding), "|", PLAIN):
        where = f"{path} line {number}"
        if len(cells) > 3:
            raise InputError(
                f"{where} has {len(cells)} fields and nothing says what they are; name them in a first line"
            )
        texts = [cell for cell in cells[1:] if cell.strip()]
        values = {"path": cells[0].strip(), "text": texts[-1] if texts else ""}
        if len(texts) > 1:
            values["other_text"] = " ".join(texts[0].split())
        yield from reading.usable(where, values["path"], partial(make_row, values, places, where))
