"""Transcripts that lie beside recordings: which endings are read, how, and the rows that come of them."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.aligned import (
    SMALL,
    Segment,
    Tier,
    choose,
    plain_name,
    read_captions,
    read_elan,
    read_json_text,
    read_plain,
    read_textgrid,
)
from speechssl.data.manifest import Utterance
from speechssl.data.nist import read_ctm, read_stm
from speechssl.data.talk import read_chat, read_trn, read_trs
from speechssl.data.tree import Tree, composed

Reader = Callable[[str, str], list[Tier]]
SIDECARS: dict[str, Reader] = {  # the best first
    **{".textgrid": read_textgrid, ".eaf": read_elan, ".trs": read_trs, ".cha": read_chat, ".stm": read_stm},
    **{".srt": read_captions, ".vtt": read_captions},
    **{".normalized.txt": read_plain, ".txt": read_plain, ".lab": read_plain, ".original.txt": read_plain},
    **{".ctm": read_ctm, ".json": read_json_text, ".trn": read_trn},
}

CAPTIONS, TIERED = (".srt", ".vtt"), (".textgrid", ".eaf")


def ending_of(path: Path) -> str:
    """The key of SIDECARS with which a file name ends, the longest one; "" if there is none."""
    return max((ending for ending in SIDECARS if path.name.lower().endswith(ending)), key=len, default="")


def sidecars(tree: Tree, audio: Path) -> list[Path]:
    """The transcripts of a recording: its name, with or without its ending, then an ending of SIDECARS; the best first.

    Captions may have their language before the ending, as talk.en.vtt, if they are in one language only.
    """
    near = [path for path in tree.beside(audio) if ending_of(path)]
    found = [path for path in near if stem_of(path) in (composed(audio.stem), composed(audio.name))]
    language = re.compile(rf"{re.escape(composed(audio.stem))}\.[a-z]{{2,3}}([-_]\w+)?")
    captions = [path for path in near if path.suffix.lower() in CAPTIONS and language.fullmatch(stem_of(path))]
    found += captions if len(captions) == 1 else []
    return sorted(found, key=lambda path: list(SIDECARS).index(ending_of(path)))


def stem_of(path: Path) -> str:
    """The name of a transcript without its ending."""
    return composed(path.name[: len(path.name) - len(ending_of(path))])


@dataclass(kw_only=True)
class Transcripts:
    """Reads what lies beside recordings, and counts it.

    tier: the name of the tier to read ("": chosen by its name). ending: of the files to read ("": those of SIDECARS). encoding:
    of files without a mark of theirs. lenient: a recording whose transcript cannot be read is a row without text. tables: files
    that were read as such. used: the files that were read. read: what was read -> how often. left_out: (path, reason) of
    recordings whose transcript cannot be read.
    """

    tree: Tree
    tier: str = ""
    ending: str = ""
    encoding: str = ""
    lenient: bool = False
    tables: set[Path] = field(default_factory=set)
    used: set[Path] = field(default_factory=set)
    read: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def rows(self, row: Utterance) -> Iterator[Utterance]:
        """A row for a whole recording with the text beside it, or one row for each segment of that; no row if it is damaged."""
        files = self.files(Path(row.path))
        try:
            found = [(path, SIDECARS.get(ending_of(path), read_plain)(self.text(path), str(path))) for path in files]
            path, tiers = self.best(found)
        except InputError as error:
            self.used.update(files)
            self.left_out.append((row.path, f"transcript cannot be read ({error})"))
            yield from [row] if self.lenient else ()
            return
        self.used.update(read for read, every in found if every)
        for segment in [part for _, every in found for tier in every for part in tier.segments if part.fault]:
            self.left_out.append((row.path, f"{segment.fault} ({segment.text or '...'} at {segment.start:g} s)"))
        if path is None:
            yield row
            return
        several = len(tiers) > 1  # then each is of a speaker
        segments = [
            segment._replace(speaker=segment.speaker or (tier.name if several else ""))
            for tier in tiers
            for segment in tier.spoken
        ]
        more = [ending_of(other) for other, every in found if other != path and any(tier.spoken for tier in every)]
        self.count(path, tiers, dict(found)[path], len(segments), more)
        if any(math.isnan(segment.end) for segment in segments):
            yield replace(row, text=segments[0].text, speaker=segments[0].speaker or row.speaker)
            return
        starts: Counter[str] = Counter()
        for segment in sorted(segments):
            start = f"{max(segment.start, 0.0):.3f}".rstrip("0").rstrip(".")
            again = f"+{starts[start]}" if starts[start] else ""  # two speak at once
            starts[start] += 1
            yield part(row, segment, f"{row.id}@{start}{again}")

    def files(self, audio: Path) -> list[Path]:
        """The transcripts of a recording."""
        if not self.ending:
            return [path for path in sidecars(self.tree, audio) if path not in self.tables]
        names = {(composed(name) + self.ending).lower() for name in (audio.stem, audio.name)}
        return [path for path in self.tree.beside(audio) if composed(path.name).lower() in names]

    def text(self, path: Path) -> str:
        """The text of a file. InputError for mark-up that is of no known kind."""
        text = "\n".join(read_lines(path, self.encoding))
        if not ending_of(path) and re.match(r"\s*(<[?!\w]|[{\[]\s*[\"{\[]|#!MLF!#)", text):
            raise InputError(f"{path} is no plain text; convert it, or list what is said in a table path<TAB>text")
        return text

    def best(self, found: list[tuple[Path, list[Tier]]]) -> tuple[Path | None, list[Tier]]:
        """The file to read and its tiers: the first with text; one of words or phones only comes after a plain text."""
        choices = [(path, choose(tiers, self.tier if path.suffix.lower() in TIERED else "")) for path, tiers in found]
        choices = [(path, tiers) for path, tiers in choices if tiers]
        if self.tier and not choices and any(path.suffix.lower() in TIERED for path, _ in found):
            names = ", ".join(tier.name for _, tiers in found for tier in tiers if tier.name and tier.spoken)
            raise InputError(
                f"no tier {self.tier!r} with text in {found[0][0].name}; its tiers with text: {names or 'none'}"
            )
        fine = [(path, tiers) for path, tiers in choices if all(plain_name(tier.name) in SMALL for tier in tiers)]
        order = [choice for choice in choices if self.tier or choice not in fine] + fine
        return order[0] if order else (None, [])

    def count(self, path: Path, tiers: list[Tier], every: list[Tier], segments: int, more: list[str]) -> None:
        """Note what was read, and what could have been. more: endings of other transcripts of the same recording."""
        names = dict.fromkeys(plain_name(tier.name) or tier.name for tier in tiers if tier.name != "captions")
        others = dict.fromkeys(
            plain_name(tier.name) or tier.name for tier in every if tier.spoken and tier not in tiers
        )
        note = f"{path.suffix} files beside the audio"
        if any(names):
            note += f": tier {', '.join(names)}"
        if others:
            note += f" (not read: {', '.join(list(others)[:6])}; --tier chooses)"
        if more:
            note += f"; not of {', '.join(more)} files there"
        self.read[note] += segments


def part(row: Utterance, segment: Segment, name: str) -> Utterance:
    """The row of a segment of a recording. Its speaker is the one that the transcript names, else that of the recording."""
    return replace(
        row,
        id=name,
        start=max(segment.start, 0.0),
        duration=segment.end - max(segment.start, 0.0),
        text=segment.text,
        speaker=segment.speaker or row.speaker,
        channel=segment.channel or row.channel,
    )


def unread(tree: Tree, used: set[Path]) -> Counter[str]:
    """Files that look like transcripts but were not read: endings of files called as a recording is -> how many."""
    left = [
        path for path in tree.others if path not in used and {stem_of(path), composed(path.stem)} & tree.by_name.keys()
    ]
    return Counter(path.suffix.lower() or "nameless" for path in left)
