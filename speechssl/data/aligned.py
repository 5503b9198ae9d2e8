"""Time-aligned transcripts: Praat's TextGrid, ELAN's .eaf, SRT, WebVTT, labels of Audacity, HTK and Babel, as tiers."""

import html
import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree

from speechssl.core.errors import InputError
from speechssl.data.columns import MEANING, clock, squeezed


class Segment(NamedTuple):
    """A stretch of a recording in seconds (end NaN: to its end) and what is said in it. speaker, channel: "" if the file names
    none. fault: why it cannot be used, "" if it can."""

    start: float
    end: float
    text: str
    speaker: str = ""
    channel: str = ""
    fault: str = ""


class Tier(NamedTuple):
    """One layer of a transcript.

    kind: what it holds, such as "words"; family: tiers of the same speaker or of the same parent, one of which is read.
    """

    name: str
    segments: list[Segment]
    kind: str = ""
    family: str = ""

    @property
    def spoken(self) -> list[Segment]:
        """The segments with text that can be used."""
        return [segment for segment in self.segments if segment.text and not segment.fault]


BEST = (  # what tiers with whole utterances are called, the best first; then those with smaller units
    *("utterance", "utterances", "utt", "sentence", "sentences", "phrase", "phrases", "ipu", "turn", "turns"),
    *("transcription", "transcript", "transcripts", "trans", "orthography", "ortho", "orth", "ort", "text", "tx"),
    *("words", "word"),
)
SMALL = ("words", "word", "phones", "phone", "phonemes", "phoneme", "segments", "syllables", "syllable", "labels")


def plain_name(name: str) -> str:
    """The name of a tier as it is compared: lower case, without the speaker."""
    return name.rpartition(" - ")[2].partition("@")[0].strip().lower()


def choose(tiers: list[Tier], wanted: str = "") -> list[Tier]:
    """The tiers to read: those called `wanted` (names or kinds, with commas), else of each family the one with the best name.

    Families without a known name are left out where others have one: they hold notes. [] if no tier with text is wanted.
    """
    tiers = [tier for tier in tiers if tier.spoken]
    if wanted:
        names = wanted.split(",")
        exact = [tier for tier in tiers if tier.name in names]
        lower = [name.strip().lower() for name in names]
        return exact or [tier for tier in tiers if {plain_name(tier.name), tier.kind.lower()} & set(lower)]
    families: dict[str, list[Tier]] = {}
    for tier in tiers:
        families.setdefault(tier.family, []).append(tier)
    best = [min(family, key=rank) for family in families.values()]
    named = [tier for tier in best if rank(tier) < len(BEST)]
    return named or best


def rank(tier: Tier) -> int:
    """How far from the best name a tier's is; a tier of numbers or of small units comes after one without a known name."""
    places = [BEST.index(name) for name in (plain_name(tier.name), tier.kind.lower()) if name in BEST]
    if places:
        return min(places)
    letters = any(any(map(str.isalpha, segment.text)) for segment in tier.spoken)
    return len(BEST) + (not letters) + (plain_name(tier.name) in SMALL)


WORD = re.compile(r'(?<![^\s=])(?:!.*|"(?P<text>(?:[^"]|"")*)"|(?P<number>[-+]?\d[\d.eE+-]*)\S*)')


def read_textgrid(text: str, where: str) -> list[Tier]:
    """The interval tiers of a TextGrid, long or short: what counts in both are its free-standing texts and numbers."""
    words: Iterator[re.Match] = (word for word in WORD.finditer(text) if word.lastgroup)

    def take(group: str) -> str:
        word = next(words)
        if word.lastgroup != group:
            raise ValueError(word[0])
        return word[group]

    def string() -> str:
        return take("text").replace('""', '"')

    def numbers(count: int) -> list[float]:
        return [float(take("number")) for _ in range(count)]

    tiers = []
    try:
        if not string().startswith("ooTextFile") or string() != "TextGrid":
            raise ValueError("the first line")
        for _ in range(int(numbers(3)[2])):
            interval, name = string() == "IntervalTier", string()
            speaker, _, kind = name.rpartition(" - ")
            segments = []
            for _ in range(int(numbers(3)[2])):
                times = numbers(2 if interval else 1)
                segments.append(Segment(times[0], times[-1], " ".join(string().split()), speaker))
            if interval:
                tiers.append(Tier(name, segments, kind, speaker))
    except (ValueError, OverflowError, StopIteration) as error:
        raise InputError(
            f"{where} is not a whole TextGrid in text form ({error or 'it ends early'}); save it in Praat as a text file"
        ) from None
    return tiers


def root_of(text: str) -> ElementTree.Element:
    """A document of XML. ValueError for one that declares entities, which can blow up to any size."""
    if "<!ENTITY" in text:
        raise ValueError("it declares entities, which are not read")
    return ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL))


def read_elan(text: str, where: str) -> list[Tier]:
    """The tiers of an ELAN file. A tier without times of its own has those of the annotations to which it refers.

    Several annotations that divide the same one (words, morphemes) are joined, because their times are not known.
    """
    try:
        root = root_of(text)
        shift = min((int(media.get("TIME_ORIGIN") or 0) for media in root.iter("MEDIA_DESCRIPTOR")), default=0) / 1000
        values = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
        parents = {tier.get("TIER_ID"): tier.get("PARENT_REF") for tier in root.iter("TIER")}
        times = {}
        for tier in root.iter("TIER"):
            times |= aligned_times(tier, values, shift)
        refers = {mark.get("ANNOTATION_ID"): mark.get("ANNOTATION_REF") for mark in root.iter("REF_ANNOTATION")}
        return [elan_tier(tier, times, refers, parents) for tier in root.iter("TIER")]
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise InputError(f"{where} is not a whole ELAN file ({error}); open it in ELAN and save it again") from None


def aligned_times(tier: ElementTree.Element, values: dict, shift: float) -> dict[str | None, tuple[float, float]]:
    """Annotation -> (start, end) in seconds. Slots without a time lie evenly between those with one, as ELAN draws them."""
    marks = list(tier.iter("ALIGNABLE_ANNOTATION"))
    slots = list(dict.fromkeys(mark.get(f"TIME_SLOT_REF{end}") for mark in marks for end in (1, 2)))
    known = [(place, float(values[slot])) for place, slot in enumerate(slots) if values[slot] is not None]
    at = {slots[place]: time for place, time in known}
    for (first, start), (last, end) in pairwise(known):
        for place in range(first + 1, last):
            at[slots[place]] = start + (end - start) * (place - first) / (last - first)
    return {
        mark.get("ANNOTATION_ID"): (
            at[mark.get("TIME_SLOT_REF1")] / 1000 + shift,
            at[mark.get("TIME_SLOT_REF2")] / 1000 + shift,
        )
        for mark in marks
    }


def elan_tier(tier: ElementTree.Element, times: dict, refers: dict, parents: dict) -> Tier:
    """One tier. Its speaker is the participant, else the name of the topmost tier above it."""
    name = top = tier.get("TIER_ID") or ""
    for _ in parents:  # a circle ends too
        top = parents.get(top) or top
    speaker = tier.get("PARTICIPANT") or top.rpartition("@")[2]
    texts: dict[tuple[float, float], list[str]] = {}
    for mark in tier.iter():
        if mark.tag in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
            origin = mark.get("ANNOTATION_ID")
            for _ in refers:
                origin = refers.get(origin, origin)
                if origin in times:
                    break
            texts.setdefault(times[origin], []).append(mark.findtext("ANNOTATION_VALUE") or "")
    segments = [Segment(*span, " ".join(" ".join(found).split()), speaker) for span, found in sorted(texts.items())]
    return Tier(name, segments, tier.get("LINGUISTIC_TYPE_REF") or "", top)


ARROW = re.compile(r"^\s*((?:\d+:)?\d+:\d+[.,]\d+)\s*-->\s*((?:\d+:)?\d+:\d+[.,]\d+).*$", re.MULTILINE)
VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")


def read_captions(text: str, where: str) -> list[Tier]:
    """The captions of an SRT or WebVTT file, without mark-up; <v Anna> names a speaker."""
    segments = []
    cues = list(ARROW.finditer(text))
    for cue, following in zip(cues, [*cues[1:], None]):
        body = text[cue.end() : following.start() if following else None].lstrip("\r\n")
        body = re.split(r"\n[ \t]*\n", body)[
            0
        ]  # what follows an empty line is the number of the next caption, or a note
        body = re.sub(r"\n\d+[ \t]*\n?\Z", "", body) if following else body  # a file without empty lines
        voice = VOICE.search(body)
        words = html.unescape(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", body)).split()
        start, end = (clock(time) for time in cue.groups())
        segments.append(Segment(start, end, " ".join(words), voice[1].strip() if voice else ""))
    if not segments and text.strip():
        raise InputError(f"{where} holds no caption (00:00:01,000 --> 00:00:02,000); correct or remove it")
    return [Tier("captions", segments)]


AUDACITY = re.compile(r"(-?\d+[.,]\d+)\t(-?\d+[.,]\d+)\t(.*)")
HTK = re.compile(r"(\d+) (\d+) (\S+).*")
BABEL = re.compile(r"\[(\d+\.\d+)\]")
TIMIT = re.compile(r"0 \d{4,} (.*[^\W\d_].*)")  # 0, the number of samples, and the whole sentence


def read_plain(text: str, where: str) -> list[Tier]:
    """A text: the transcript of the whole recording, unless each line is a label of Audacity (seconds) or of HTK (100 ns), or
    times stand in lines of their own, as in IARPA's Babel."""
    tick = 1 / 16_000 if where.lower().endswith((".phn", ".wrd")) else 1e-7  # TIMIT counts samples
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("\\")]
    if len(lines) == 1 and (whole := TIMIT.fullmatch(lines[0])) and " " in whole[1]:
        text, lines = whole[1], []
    if len(lines) > 1 and all(map(BABEL.fullmatch, (lines[0], lines[-1]))):
        return [Tier("turns", list(babel_segments(lines)))]
    for form, unit in ((AUDACITY, 1.0), (HTK, tick)):
        found = [form.fullmatch(line) for line in lines]
        rows = [match.groups() for match in found if match]
        seconds = [[float(time.replace(",", ".")) * unit for time in row[:2]] for row in rows]
        if rows and len(rows) == len(lines) and all(start <= end and end >= 1e-3 for start, end in seconds):
            segments = [Segment(start, end, " ".join(row[2].split())) for (start, end), row in zip(seconds, rows)]
            return [Tier("labels", segments)]
    return [Tier("", [Segment(0.0, math.nan, " ".join(text.split()))])]


def babel_segments(lines: list[str]) -> Iterator[Segment]:
    """What stands between two times, without <no-speech>, <breath> and the like; (( )) is what nobody understood."""
    marks = [(place, float(mark[1])) for place, line in enumerate(lines) if (mark := BABEL.fullmatch(line.strip()))]
    for (first, start), (last, end) in pairwise(marks):
        said = " ".join(lines[first + 1 : last])
        fault = "not all of the utterance is understood" if "(())" in said else ""
        yield Segment(start, end, " ".join(re.sub(r"<[^>]*>", " ", said).split()), fault=fault)


def read_json_text(text: str, where: str) -> list[Tier]:
    """A JSON object with the text of a recording: its `segments` with start, end and text, as Whisper and WhisperX write them,
    else its text under one of the names that columns of tables have; [] for any other JSON."""
    del where  # JSON of another kind is not damaged
    try:
        data = json.loads(text)
    except ValueError:
        return []
    parts = data.get("segments") if isinstance(data, dict) else None
    try:
        segments = [segment_of(part, float(part["start"]), float(part["end"])) for part in parts or ()]
        whole = [segment_of(data, 0.0, math.nan)] if not segments and isinstance(data, dict) else []
    except (KeyError, TypeError, ValueError):
        return []
    return [Tier("captions", segments or whole)]


def segment_of(values: dict[str, Any], start: float, end: float) -> Segment:
    """A segment from an object with a text and perhaps a speaker. KeyError without a text."""
    known = {MEANING.get(squeezed(name)): str(value) for name, value in reversed(values.items()) if value is not None}
    return Segment(start, end, " ".join(known["text"].split()), known.get("speaker", ""))
