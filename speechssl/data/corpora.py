"""What lies in a folder or a table: its utterances, of which no audio is opened here, and what is to be said about them."""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechssl.core.english import count
from speechssl.core.errors import InputError
from speechssl.core.files import files_below
from speechssl.data.columns import Reading
from speechssl.data.listed import LINES, TEXTS
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.named import read_pattern
from speechssl.data.readers import CORPORA
from speechssl.data.search import Part, Search, described_together
from speechssl.data.sidecars import SIDECARS, Transcripts, ending_of, stem_of, unread
from speechssl.data.tables import is_table, read_manifest
from speechssl.data.tree import Tree, composed, split_folders
from speechssl.sound.audio import EXTENSIONS, FOREIGN

CLOSED = {  # what may hold transcripts or recordings, and what to do
    "save workbooks as CSV": (".xlsx", ".xlsm", ".xls", ".ods"),
    "write raw samples as wav, such as ffmpeg -f s16le -ar 16000 -i x.pcm x.wav": (".pcm", ".raw"),
    "save documents as plain text": (".docx", ".odt", ".rtf"),
    "convert them to wav: shorten -x, then as raw samples": (".shn", ".adc"),
    "unpack archives": (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar"),
}

TEXTUAL = {*LINES[1:], ".xml", ".yaml", ".yml", ".mlf", ".rttm", ".lsn", ".phn", ".wrd", ".html"}
ABOUT = re.compile(
    r"(?i)(read[-_ ]?me|licen[cs]e|copying|about|change|notes?|info|terms|citation|requirements|version)"
)


def audio_files(folder: Path) -> list[Path]:
    """Every file below with an audio ending, sorted; broken links and undecodable formats too, so that they are reported."""
    return sorted(path for path in files_below(folder) if path.suffix.lower() in (*EXTENSIONS, *FOREIGN))


def without_doubles(paths: list[Path], folder: Path) -> list[Path]:
    """The recordings, each once where links lead to others of them: by the path below the folder of a split, as in THCHS-30, else
    by that which is no link."""
    links = {path for path in paths if path.is_symlink()}
    if not links:
        return paths
    found: dict[str, Path] = {}
    split = split_folders(paths, folder)
    for path in sorted(paths, key=lambda path: (not split.get(path), path in links)):
        found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def class_level(paths: list[Path], folder: Path) -> int | None:
    """The level of folders below `folder` that holds the classes: the only one at which the paths differ (0: the first).

    None if they differ at no level. InputError if they differ at several, because nothing says which one is the class.
    """
    folders = [path.relative_to(folder).parts[:-1] for path in paths]
    levels = []  # the names at each level; "" where a file lies above it
    for level in range(max(map(len, folders), default=0)):
        levels.append(sorted({parts[level] if level < len(parts) else "" for parts in folders}))
    differing = [level for level, names in enumerate(levels) if len(names) > 1]
    if not differing:
        return None
    if len(differing) == 1:
        return differing[0]
    examples = []
    for level in differing:
        names = ", ".join(name or "-" for name in levels[level][:4])
        examples.append(f"level {level + 1}: {names} ...")
    first = differing[0]
    above = f"^([^/]+/){{{first}}}" if first else "^"
    raise InputError(
        f"{folder} has folders in folders ({'; '.join(examples)}), and no file name shows which one is the class; say so: "
        f"--pattern '{above}(?P<speaker>[^/]+)/(?P<label>[^/]+)/' takes level {first + 1} for speakers and the next for labels"
    )


@dataclass(kw_only=True)
class Found:
    """The rows of a source, and what is to be said about them.

    left_out: (path, reason) of recordings that are in no row, and of rows of tables that cannot be used. ignored: the endings
    of files of no use here -> how many.
    """

    rows: Manifest
    parts: list[Part]
    notes: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def corpus(self) -> str:
        """What the parts are, each once, such as fsdd + folder."""
        return " + ".join(dict.fromkeys(part.corpus for part in self.parts))

    def described(self, most: int = 12) -> list[str]:
        """What was read as what, in lines: the parts with their evidence, then the notes."""
        alike: dict[str, list[Part]] = defaultdict(list)
        for part in self.parts:
            if len(self.parts) > 1 or part.why or part.corpus == "table":
                alike[part.why if part.listed else str(id(part))].append(part)
        lines = [line for parts in alike.values() for line in described_together(parts)] + self.notes
        return [*lines[:most], *([f"and {len(lines) - most} lines more"] if len(lines) > most else [])]


def find_rows(
    source: Path, corpus: str = "auto", pattern: str = "", reading: Reading | None = None
) -> tuple[Manifest, str]:
    """The rows of a source and what it is; see find. A recording whose transcript cannot be read has no text here."""
    result = find(source, corpus, pattern, reading, lenient=True)
    return result.rows, result.corpus


def find(
    source: Path,
    corpus: str = "auto",
    pattern: str = "",
    reading: Reading | None = None,
    *,
    tier: str = "",
    skip: Path | None = None,
    lenient: bool = False,
) -> Found:
    """The rows of a manifest or a folder, and what it is.

    corpus: "auto", or a key of CORPORA for the whole folder. pattern: see read_pattern. reading: how tables and transcripts
    are read. tier, lenient: see Transcripts. skip: a file that is no table of the folder, because it will be written.
    InputError for a source without audio, an unknown corpus, a pattern where there are no file names to read, or columns
    where there is no table.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder of audio or a manifest")
    if corpus != "auto" and corpus not in CORPORA:
        raise InputError(f"there is no corpus reader {corpus!r}; choose one of {', '.join(CORPORA)}")
    if pattern and source.is_file():
        raise InputError(
            f"--pattern says what the names in a folder mean, and {source} is a manifest; fill in its columns"
        )
    if pattern and corpus not in ("auto", "folder"):
        raise InputError(
            "--pattern says what the names in a folder mean; leave it out, or the name of a corpus that is given beside it"
        )
    reading = reading or Reading()
    if source.is_file() or is_table(source):
        rows = read_manifest(source, reading=reading)
        part = Part(corpus="manifest", folder=source, rows=(), count=len(rows), listed=True)
        return Found(rows=rows, parts=[part], left_out=reasons(reading))
    options = {"tier": tier, "encoding": reading.encoding, "lenient": lenient}
    return find_parts(source, corpus, pattern, reading, skip, options)


def find_parts(
    source: Path, corpus: str, pattern: str, reading: Reading, skip: Path | None, options: dict[str, Any]
) -> Found:
    """The parts of a folder; see find. options: of Transcripts."""
    listed = audio_files(source)
    others, audio = set(files_below(source)) - set(listed), without_doubles(listed, source)
    written = {
        path for path in others if skip and path.name == skip.name and os.path.realpath(path) == os.path.realpath(skip)
    }
    tree = Tree(source, audio, others - written)
    ending = reading.columns.get("text", "") if reading.columns.get("text", "").startswith(".") else ""
    if ending:
        reading = replace(reading, columns={name: of for name, of in reading.columns.items() if name != "text"})
    search = Search(tree=tree, reading=reading, free=dict.fromkeys(audio))
    if len(audio) < len(listed):
        search.notes.append(f"read once: {count(len(listed) - len(audio), 'recording')} to which a link leads too")
    if pattern:
        parts = [Part(corpus="pattern", folder=source, rows=read_pattern(pattern, audio, source), why="--pattern")]
    elif corpus != "auto":
        parts = [Part(corpus=corpus, folder=source, rows=CORPORA[corpus](audio, source), why="--corpus")]
    else:
        parts = list(search.parts())
    if reading.columns and not any(part.listed for part in parts):
        raise InputError(
            f"--columns says what a table means, and {source} is a folder of audio; name the table in it, or the ending of the "
            "transcripts beside the audio: --columns text=.ENDING"
        )
    texts = Transcripts(tree=tree, ending=ending, tables=search.used, **options)
    if ending and not any(path.name.lower().endswith(ending.lower()) for path in tree.others):
        raise InputError(f"{source} holds no file that ends in {ending}")
    rows = Manifest.of(all_rows(parts, texts, keep=pattern if "(?P<text>" in pattern else ""))
    if not audio and not len(rows):
        note = "".join(f"; {note}" for note in notes_of(search, texts, Counter())[:1])
        raise InputError(f"{source} holds no audio; looked for files ending in {' '.join(EXTENSIONS)}{note}")
    used = texts.used | search.used
    left, left_out = unread(tree, used), [*reasons(reading), *texts.left_out]
    lost = orphans(search, texts)
    unused = Counter(path.suffix.lower() or "nameless" for path in tree.others if path not in used | set(lost)) - left
    return Found(rows=rows, parts=parts, notes=notes_of(search, texts, left), left_out=left_out, ignored=unused)


def reasons(reading: Reading) -> list[tuple[str, str]]:
    """(place, reason) of the rows of tables that cannot be used."""
    return [(row.where, f"the row cannot be used ({row.problem})") for row in reading.left_out or ()]


def all_rows(parts: Sequence[Part], texts: Transcripts, keep: str = "") -> Iterator[Utterance]:
    """The rows of all parts with the transcripts beside the recordings, which win over what a name says, not over a table.

    keep: not "" if a pattern says the text. An id that another part has too begins with the place of its part.
    """
    seen: dict[str, int] = {}
    several, total = len(parts) > 1, 0
    for number, part in enumerate(parts):
        part.first = total
        for row in part.rows:
            whole = row.start == 0 and math.isnan(row.duration)
            fixed = keep or (row.text and part.listed) or not whole
            for one in [row] if fixed else texts.rows(row):
                other = several and seen.setdefault(one.id, number) != number
                yield replace(one, id=f"{os.path.relpath(part.folder, texts.tree.folder)}/{one.id}") if other else one
                total += 1
        part.count = total - part.first


def orphans(search: Search, texts: Transcripts) -> list[Path]:
    """Files that look like transcripts or lists of no recording that is there."""
    used = texts.used | search.used
    left = [path for path in search.tree.others if path not in used and not ABOUT.match(path.name)]
    return [
        path
        for path in left
        if (ending_of(path) or path.suffix.lower() in TEXTUAL or TEXTS.search(path.name))
        and not {stem_of(path), composed(path.stem)} & search.tree.by_name.keys()
    ]


def notes_of(search: Search, texts: Transcripts, left: Counter[str]) -> list[str]:
    """What is to be said about transcripts and tables, beside the parts. left: see unread."""
    notes = [f"{count(number, 'row')} with the text of {note}" for note, number in texts.read.items()]
    for ending, number in left.items():
        known = ending in SIDECARS
        why = (
            "no text, or their recordings have it elsewhere"
            if known
            else f"--columns text={ending} reads them as transcripts"
        )
        notes.append(f"not read: {count(number, f'{ending} file')} beside the audio ({why})")
    others = [path for path in search.tree.others if path not in texts.used | search.used]
    for remedy, endings in CLOSED.items():
        if closed := [path for path in others if path.name.lower().endswith(endings)]:
            notes.append(f"not opened: {count(len(closed), 'file')} such as {closed[0]} ({remedy})")
    if lost := orphans(search, texts):
        kinds = ", ".join(dict.fromkeys(path.suffix.lower() or path.name for path in lost))
        notes.append(
            f"not read, as they name no recording here: {count(len(lost), 'file')} ({kinds}) such as {lost[0]}"
        )
    return [*search.notes, *notes]
