"""What a verb is given, tables, folders and audio files, as utterances."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from speechssl.core.errors import InputError
from speechssl.data.corpora import audio_files, find_rows
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.places import ENDINGS
from speechssl.data.tables import is_table, read_rows
from speechssl.data.tree import identity


def rows_of(sources: Sequence[Path], where: str | Sequence[str] = "") -> Manifest:
    """The rows of tables and folders (known corpora included), and audio files. InputError for an id of several of them."""

    def found() -> Iterator[Utterance]:
        for source in map(Path, sources):
            if not source.is_dir() and (
                source.suffix.lower() in ENDINGS or (source.is_file() and not is_table(source))
            ):
                yield Utterance(id=str(source), path=str(source))
            else:
                yield from find_rows(source)[0]

    rows, seen = Manifest.of(found()).where(where), dict[str, str]()
    for name, path in zip(rows.cells("id"), rows.cells("path"), strict=True) if len(sources) > 1 else ():
        if name in seen:
            raise InputError(
                f"{seen[name]} and {path} both have the id {name!r}; leave one of them out, or give each source its own --out"
            )
        seen[name] = path
    return rows


def inside(name: str) -> str:
    """An id as the name of a file, which cannot lead out of its folder."""
    return "/".join(part for part in PurePath(name).parts if part not in ("/", ".."))


def transcripts_of(sources: Sequence[Path], where: str | Sequence[str] = "") -> Manifest:
    """Rows whose ids are the names of their transcripts: that of a file without its ending, or with it if another file in the
    folder has the same name; the id of a row of a table, which cannot lead out of a folder."""

    def found() -> Iterator[Utterance]:
        for source in map(Path, sources):
            if is_table(source):
                for row in read_rows(source):
                    yield replace(row, id=inside(row.id))
                continue
            if not source.is_dir():
                yield Utterance(id=source.stem, path=str(source))
            files = audio_files(source) if source.is_dir() else []
            names = Counter(identity(file, source) for file in files)
            for file in files:
                name = identity(file, source)
                yield Utterance(id=name if names[name] == 1 else name + file.suffix, path=str(file))

    rows = Manifest.of(found())
    if not len(rows):
        raise InputError(f"no audio found in {', '.join(map(str, sources))}")
    return rows.where(where)
