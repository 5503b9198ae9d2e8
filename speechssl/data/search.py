"""The parts of a folder: corpora recognised by evidence, tables that list recordings, and what is left over."""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.core.english import count
from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.columns import Reading
from speechssl.data.cremad import CREMA_D_NAME, CREMA_D_SURE
from speechssl.data.listed import by_hand, companions, found, lists_recordings, read_listed, tables_of
from speechssl.data.manifest import Utterance
from speechssl.data.named import NAMED, doubts, members, stranger
from speechssl.data.objects import is_saved_dataset
from speechssl.data.readers import COMMON_VOICE, COMMON_VOICE_NOTES, CORPORA, common_voice_rows, common_voice_tables
from speechssl.data.sidecars import ending_of, sidecars, stem_of
from speechssl.data.tables import read_rows
from speechssl.data.tree import Tree

Piece = tuple[str, float]  # channel and start
SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")  # of datasets' save_to_disk
KALDI = ("utt2spk", "spk2utt", "spk2gender")  # beside a file `text`


@dataclass(kw_only=True)
class Part:
    """What one reader makes of a part of a folder.

    corpus: a key of CORPORA, "manifest", "pattern", or "table". why: the evidence, in words. listed: whether a table lists the
    rows, over whose texts nothing is guessed. first, count: which rows of all are of this part, known once they are read.
    """

    corpus: str
    folder: Path
    rows: Iterable[Utterance]
    why: str = ""
    listed: bool = False
    first: int = 0
    count: int = 0

    def described(self) -> str:
        """This part in a line, with the evidence and, where a corpus was guessed, the way out."""
        way_out = (
            "; if it is not that, --corpus folder"
            if self.corpus in CORPORA and self.why and self.why[:2] != "--"
            else ""
        )
        return (
            f"{self.corpus}: {count(self.count, 'row')} of {self.folder}{f' ({self.why}{way_out})' if self.why else ''}"
        )


def piece_of(row: Utterance) -> Piece | None:
    """The piece of its recording that a row is, None for the whole."""
    return None if row.start == 0 and math.isnan(row.duration) else (row.channel, row.start)


def is_new(row: Utterance, pieces: set[Piece]) -> bool:
    """Whether a row is a piece of a recording, and none of these."""
    piece = piece_of(row)
    return piece is not None and piece not in pieces


def described_together(parts: list[Part]) -> list[str]:
    """Lines about parts that tables of one kind list: one for each, or one for all where these are many."""
    if len(parts) < 5:
        return [part.described() for part in parts]
    rows, why = count(sum(part.count for part in parts), "row"), f", each {parts[0].why}" if parts[0].why else ""
    return [f"{parts[0].corpus}: {rows} of {len(parts)} tables such as {parts[0].folder}{why}"]


@dataclass(kw_only=True)
class Search:
    """The search for the parts of a folder.

    free: the recordings that are in no part yet. doubles: table -> how many of its rows are in another part. cuts: recordings
    that tables cut -> the pieces that are in parts. used: the tables that were read. notes: lines for the summary. left_out:
    (path, reason) of recordings that are in no row.
    """

    tree: Tree
    reading: Reading
    free: dict[Path, None]
    doubles: dict[Path, int] = field(default_factory=dict)
    cuts: dict[str, set[Piece]] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def parts(self) -> Iterator[Part]:
        """The parts, each by the first of these ways that finds it; what is left over is a plain folder."""
        yield from self.kaldi()
        yield from self.common_voice()
        yield from self.chapters()
        yield from self.vctk()
        yield from self.named(["nemo"])  # before its table is read as any other
        yield from self.tables()
        self.tell_doubles()
        yield from self.crema_d()
        yield from self.named([corpus for corpus in NAMED if corpus != "nemo"])
        if self.free:
            yield self.part("folder", list(self.free))

    def part(self, corpus: str, files: list[Path], why: str = "", folder: Path | None = None) -> Part:
        """A part of some recordings, which are no longer free."""
        for path in files:
            self.free.pop(path, None)
        place = Path(os.path.commonpath([path.parent for path in files]))
        return Part(
            corpus=corpus, folder=folder or place, rows=CORPORA[corpus](files, folder or self.tree.folder), why=why
        )

    def listed_part(self, table: Path, rows: list[Utterance], why: str = "") -> Part:
        """A part whose rows a table lists. Rows of recordings that are in a part already are left out, unless both cut them and
        this is another piece."""
        paths = {row.path for row in rows}
        known = {path for path in paths if path in self.tree.paths and Path(path) not in self.free}
        fresh = [
            row for row in rows if row.path not in known or (row.path in self.cuts and is_new(row, self.cuts[row.path]))
        ]
        for path in paths:
            self.free.pop(Path(path), None)
        if len(fresh) < len(rows):
            self.doubles[table] = len(rows) - len(fresh)
        rows = fresh
        for row in rows:
            if piece := piece_of(row):
                self.cuts.setdefault(row.path, set()).add(piece)
        return Part(corpus="table", folder=table, rows=rows, why=why, listed=True)

    def claim(self, known: int, base: Path) -> None:
        """Keep the recordings of rows that cannot be used, but for the first `known`, out of the parts to come, where they would
        be rows without their text and their split. base: of their paths."""
        for row in (self.reading.left_out or ())[known:]:
            if (path := self.tree.recording(row.path, base)) is not None:
                self.free.pop(path, None)

    def tell_doubles(self) -> None:
        """Note the rows of tables that were left out for being in another part."""
        if self.doubles:
            first, number = next(iter(self.doubles)), len(self.doubles)
            tables = str(first) if number == 1 else f"{number} tables such as {first}"
            note = f"left out, as another part has them already: {count(sum(self.doubles.values()), 'row')} of {tables}"
            self.notes.append(f"{note}; {by_hand(first)} reads that alone")

    def kaldi(self) -> Iterator[Part]:
        """Folders with wav.scp."""
        for scp in [path for path in self.tree.others if path.name == "wav.scp"]:
            known = len(self.reading.left_out or ())
            try:
                rows = [found(row, scp, self.tree) for row in read_rows(scp.parent, self.reading)]
            except InputError as error:
                self.used.add(scp)
                self.notes.append(f"not read: {error}")
                continue
            self.used.update(path for path in self.tree.others if path.parent == scp.parent)
            part = self.listed_part(scp.parent, rows, "a Kaldi folder (wav.scp)")
            self.claim(known, scp.parent)
            yield part

    def common_voice(self) -> Iterator[Part]:
        """Folders with clips/ and a table with the columns client_id, path and sentence."""
        for folder in sorted({path.parent.parent for path in self.free if path.parent.name == "clips"}):
            tables = [table for split in COMMON_VOICE if (table := folder / f"{split}.tsv").is_file()]
            heads = {table: set(next(read_lines(table), "").split("\t")) for table in tables}
            tables = [table for table in tables if heads[table] >= {"client_id", "path", "sentence"}]
            read = [table for table in common_voice_tables(folder) if table in tables]
            if not read:
                continue
            self.used.update([*tables, *(folder / f"{name}.tsv" for name in COMMON_VOICE_NOTES)])
            clips = {table: {row["path"] for row in common_voice_rows(table)} for table in tables}
            names = set().union(*clips.values())
            files = [path for path in self.free if path.parent == folder / "clips" and {path.name, path.stem} & names]
            note = ", ".join(table.name for table in read)
            yield self.part("common-voice", files, f"clips/ beside {note} with client_id, path and sentence", folder)
            rest = set().union(*(clips[table] for table in read))
            for table in tables:
                if more := clips[table] - rest:
                    command = f"`speechssl prepare {table} --out {table.stem}.tsv`"
                    self.notes.append(
                        f"{table} is not read: {len(more)} clips that are in no split; {command} reads it"
                    )

    def chapters(self) -> Iterator[Part]:
        """LibriSpeech: speaker/chapter/speaker-chapter-0000.flac beside speaker-chapter.trans.txt."""
        chapters = {}
        for table in self.tree.others:
            place = re.fullmatch(r"(\d+)-(\d+)\.trans\.txt", table.name)
            if place and (table.parent.parent.name, table.parent.name) == place.groups():
                chapters[table.parent] = table
        files = [path for path in self.free if re.fullmatch(r"(\d+)-(\d+)-\d+", path.stem)]
        files = [path for path in files if path.stem.split("-")[:2] == [path.parent.parent.name, path.parent.name]]
        if any(path.parent in chapters for path in files):
            self.used.update(chapters.values())
            yield self.part("librispeech", files, f"folders speaker/chapter, {len(chapters)} of them with .trans.txt")

    def vctk(self) -> Iterator[Part]:
        """VCTK: wav48*/p225/p225_001.wav and txt/p225/."""
        files = []
        for path in self.free:
            speaker, above = path.parent.name, path.parent.parent
            fits = re.fullmatch(rf"{re.escape(speaker)}_\d+(_mic[12])?", path.stem) and above.name.startswith("wav48")
            if fits and (above.parent / "txt").is_dir():
                files.append(path)
        if files:
            texts = {path.parents[2] / "txt" for path in files}
            self.used.update(path for path in self.tree.others if texts & set(path.parents))
            yield self.part("vctk", files, "folders wav48... and txt with the same speakers")

    def tables(self) -> Iterator[Part]:
        """Every table that names recordings and brings texts, labels or a split. The others are named in the notes."""
        unread: dict[str, list[Path]] = defaultdict(list)
        for table in tables_of(self.tree):
            if table.name in KALDI and table.with_name("text").is_file():
                self.used.add(table)  # read with that, or said by it
            if table.name in SAVED and (table.name == SAVED[-1] or is_saved_dataset(table.parent)):
                self.used.add(table)  # says what lies beside it
            beside = ending_of(table) and stem_of(table) in self.tree.by_name  # a recording
            if table in self.used or (beside and not lists_recordings(table, self.tree, self.reading)):
                continue
            known = len(self.reading.left_out or ())
            rows, problem = read_listed(table, self.tree, self.reading)
            if rows:
                self.used.update([table, *companions(table)])
                part = self.listed_part(table, rows)
                self.claim(known, table.parent)
                if part.rows:
                    yield part
            elif problem:
                self.used.add(table)
                unread[problem.replace(str(table), "TABLE")].append(table)
        for problem, alike in unread.items():
            note = f"{alike[0]} is not read ({problem.replace('TABLE', str(alike[0]))})"
            note += f", nor are {len(alike) - 1} tables like it" if len(alike) > 1 else ""
            remedy = f"; once that is fixed, {by_hand(alike[0])} reads it" if "`" not in problem else ""
            self.notes.append(note + remedy)

    def crema_d(self) -> Iterator[Part]:
        """CREMA-D: names of its 91 actors, 12 sentences, 6 emotions and 3 levels."""
        alike = [path for path in self.free if re.fullmatch(CREMA_D_NAME, path.stem)]
        strange = {path.parent for path in alike if not re.fullmatch(CREMA_D_SURE, path.stem)}
        files = [path for path in alike if path.parent not in strange]
        if len(files) > 2 and not self.transcribed(files):
            yield self.part("crema-d", files, "file names of its actors, sentences, emotions and levels")

    def named(self, corpora: list[str]) -> Iterator[Part]:
        """Folders in which most names are of a corpus of NAMED, if together they are evidence enough."""
        folders: dict[Path, list[Path]] = defaultdict(list)
        for path in self.free:
            if not path.name.startswith("."):
                folders[path.parent].append(path)
        for corpus in corpora:
            alike = {folder: members(corpus, files) for folder, files in folders.items()}
            alike = {folder: files for folder, files in alike.items() if files}
            if NAMED[corpus].says_text:
                alike = {folder: files for folder, files in alike.items() if not self.transcribed(files)}
            sure = [folder for folder, files in alike.items() if not stranger(corpus, files)]
            files = [path for folder in sure or alike for path in alike[folder] if path in self.free]
            if len(files) < 3:
                continue
            doubt = "transcripts lie beside them" if self.transcribed(files) else doubts(corpus, files)
            if not doubt:
                whole = [path for path in self.free if path.parent in sure]
                self.used.update(path for path in self.tree.others if path.name in NAMED[corpus].tables)
                yield self.part(corpus, whole, NAMED[corpus].evidence)
            else:
                note = f"{len(files)} names have the form of {corpus}'s, which proves nothing here ({doubt})"
                self.notes.append(f"{note}; if it is that, --corpus {corpus} reads them")

    def transcribed(self, files: list[Path]) -> bool:
        """Whether a transcript lies beside half of the recordings or more, as beside those of no corpus of this kind."""
        return 2 * sum(bool(sidecars(self.tree, path)) for path in files) >= len(files)
