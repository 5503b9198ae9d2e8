"""Readers of the trees of known corpora, and of any folder: from the recordings to utterances."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.cremad import read_crema_d
from speechssl.data.listed import speaker_of
from speechssl.data.manifest import Utterance
from speechssl.data.named import NAMED, read_named
from speechssl.data.tree import identity, split_folder, split_folders


def read_librispeech(files: Sequence[Path], folder: Path) -> Iterator[Utterance]:
    """LibriSpeech: speaker/chapter/speaker-chapter-number.flac, one .trans.txt per chapter; the split is the folder above."""
    texts: dict[str, str] = {}
    for chapter in sorted({path.parent for path in files}):
        for table in sorted(chapter.glob("*.trans.txt")):
            pairs = (line.partition(" ") for line in read_lines(table))
            texts |= {name: text.strip() for name, _, text in pairs}
    for path in files:
        speaker, split = path.stem.split("-")[0], path.parent.parent.parent.name
        if len(path.relative_to(folder).parts) < 4 or not re.match(r"(train|dev|test)(-|$)", split):
            split = ""
        yield Utterance(id=path.stem, path=str(path), speaker=speaker, text=texts.get(path.stem, ""), split=split)


def read_vctk(files: Sequence[Path], folder: Path) -> Iterator[Utterance]:
    """VCTK: wav48*/speaker/speaker_number[_mic1].flac and txt/speaker/speaker_number.txt."""
    for path in files:
        place = path.parent.parent.parent / "txt" / path.parent.name / (re.sub(r"_mic[12]$", "", path.stem) + ".txt")
        text = " ".join(" ".join(read_lines(place)).split()) if place.is_file() else ""
        yield Utterance(id=identity(path, folder), path=str(path), speaker=path.parent.name, text=text)


COMMON_VOICE = ("train", "dev", "test", "validated", "other", "invalidated")
COMMON_VOICE_NOTES = (
    "clip_durations",
    "reported",
    "validated_sentences",
    "unvalidated_sentences",
)  # tables without texts of clips


def read_common_voice(files: Sequence[Path], folder: Path) -> Iterator[Utterance]:
    """Common Voice: clips/ beside train.tsv, dev.tsv and test.tsv, whose name is the split, else validated.tsv.

    The clips of other tables are left out: those of validated.tsv that are in no split may be of speakers of the test, and
    those of other.tsv and invalidated.tsv were not approved.
    """
    tables = common_voice_tables(folder)
    if not tables:
        raise InputError(f"{folder} has neither train.tsv nor validated.tsv beside clips/; try --corpus folder")
    seen: set[str] = set()
    for table in tables:
        for row in common_voice_rows(table):
            path = folder / "clips" / row["path"]
            if row["path"] in seen:
                continue
            seen.add(row["path"])
            yield Utterance(
                id=Path(row["path"]).stem,
                path=str(path if path.suffix else path.with_suffix(".mp3")),
                speaker=row.get("client_id", ""),
                text=row.get("sentence", ""),
                split=table.stem,
                extra={
                    name: cell for name, cell in row.items() if name not in ("client_id", "path", "sentence", "split")
                },
            )


def common_voice_tables(folder: Path) -> list[Path]:
    """The tables of a release that are read."""
    found = [table for split in COMMON_VOICE[:4] if (table := folder / f"{split}.tsv").is_file()]
    return [table for table in found if table.stem != "validated"] or found


def common_voice_rows(table: Path) -> Iterator[dict[str, str]]:
    """The rows of a table of Common Voice that name a clip."""
    head, *lines = (line.split("\t") for line in read_lines(table))
    rows = (dict(zip(head, cells)) for cells in lines)
    return (row for row in rows if row.get("path"))


def read_folder(files: Sequence[Path], folder: Path) -> Iterator[Utterance]:
    """Any folder: the speaker is the folder (see speaker_of); folders train, dev and test are the split."""
    splits = split_folders(files, folder)
    for path in files:
        names = [name for name in path.relative_to(folder).parts[:-1] if not (splits and split_folder(name))]
        row = Utterance(id=identity(path, folder) + path.suffix, path=str(path), speaker=speaker_of(path, names))
        yield replace(row, split=splits.get(path, ""))


Reader = Callable[[Sequence[Path], Path], Iterator[Utterance]]
CORPORA: dict[str, Reader] = {
    "librispeech": read_librispeech,
    "common-voice": read_common_voice,
    "crema-d": read_crema_d,
    **{corpus: partial(read_named, corpus) for corpus in NAMED},
    "vctk": read_vctk,
    "folder": read_folder,
}
