"""Transcripts of conversations as tiers: Transcriber's .trs, CHAT of CLAN and TalkBank."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.aligned import Segment, Tier, read_plain, root_of


def read_trs(text: str, where: str) -> list[Tier]:
    """The segments of a Transcriber file (trans-14.dtd), from one Sync to the next; where two speak at once, one for each."""
    segments: list[Segment] = []
    try:
        root = root_of(text)
        if root.tag != "Trans":
            raise ValueError(f"it begins with <{root.tag}>, not with <Trans>")
        names = {speaker.get("id"): speaker.get("name") or "" for speaker in root.iter("Speaker")}
        for turn in root.iter("Turn"):
            speakers = [own_name(names.get(one, one), where) for one in (turn.get("speaker") or "").split()]
            pieces = list(pieces_of(turn))
            ends = [*(start for start, _ in pieces[1:]), time_of(turn.attrib["endTime"])]
            for (start, said), end in zip(pieces, ends, strict=True):
                for number, part in said.items():
                    speaker = speakers[number - 1] if 0 < number <= len(speakers) else ""
                    segments.append(Segment(start, end, " ".join(part.split()), speaker))
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise InputError(
            f"{where} is not a whole Transcriber file ({error}); open it in Transcriber and save it again"
        ) from None
    return [Tier("turns", segments)]


def pieces_of(turn: ElementTree.Element) -> Iterator[tuple[float, dict[int, str]]]:
    """(start, number of the speaker -> what is said) of each stretch of a turn; events and comments have no text of their own."""
    start, number, said = time_of(turn.attrib["startTime"]), 1, {1: turn.text or ""}
    for mark in turn:
        if mark.tag == "Sync":
            time = time_of(mark.attrib["time"])
            if time > start or any(map(str.strip, said.values())):
                yield start, said
            start, number, said = time, 1, {}
        elif mark.tag == "Who":
            number = int(mark.attrib["nb"])
        said[number] = f"{said.get(number, '')} {mark.tail or ''}"
    yield start, said


def time_of(text: str) -> float:
    """A time in seconds. ValueError for anything else."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is no time")
    return value


def own_name(name: str, where: str) -> str:
    """A speaker by the name that the file gives, or by that of the file too where it is only a number there."""
    return f"{Path(where).stem}/{name}" if re.fullmatch(r"(speaker#|spk)\d+", name) else name


def read_trn(text: str, where: str) -> list[Tier]:
    """THCHS-30's .wav.trn: the text, then its syllables and phones; one that only names another stands for that."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    other = Path(where).parent / first
    if first.endswith(".trn") and other.is_file() and other != Path(where):
        return read_trn("\n".join(read_lines(other)), str(other))
    return read_plain(first, where)


BULLET = re.compile(r"\x15(?:%\w+:\"[^\"]*\"_)?(\d+)_(\d+)\x15")  # milliseconds
UNCLEAR = re.compile(r"(?<!\w)(xxx?|yyy?|www)(?!\w)")  # unintelligible, in phones only, not transcribed
CODES = (  # CHAT's main line (MacWhinney, The CHILDES Project, part 1) -> what is said
    (r"\x15[^\x15]*\x15", " "),
    (r"\[[^\]]*\]", " "),  # comments, errors, repetitions
    (r"\((\.+|[\d.:]+)\)", " "),  # pauses
    (r"&[=*{}]\S+", " "),  # laughter; what another speaker says between; long events
    (r"(?<!\S)0\w*", " "),  # words that are left out
    (r"(?<!\S)(\+\S*|/+)(?!\S)", " "),  # how an utterance begins or ends; retracing
    (r"\(\w+\)|&[-~+]?|@[\w:$&+]*|[⌈⌉⌊⌋]\d*", ""),  # sounds left out, fillers, languages, overlaps
    (r"(?<!\d):|:(?!\d)", ""),  # length, but not 10:30
    (r"[<>()‹›↑↓→↗↘∆∇°▔☺Ϋ∬„‡^≠≈]", ""),  # scope, intonation, loudness
    (r"[_+]", " "),  # parts of compounds
    (r"\s+(?=[.?!,;]+(\s|$))", ""),
)
PARTICIPANT = re.compile(r"^@Participants:\s*(.*)$", re.MULTILINE)


def read_chat(text: str, where: str) -> list[Tier]:
    """The main lines of a CHAT file with their times; without any, the text of all as that of the whole recording.

    Utterances with a part that nobody understood (xxx) or wrote down (www), and those without a time where others have one,
    are faults. A speaker is called by the name that @Participants gives, else by those of the file and the role (a/MOT).
    """
    if "@Begin" not in text:
        raise InputError(f"{where} has no line @Begin, with which CHAT begins; correct or remove it")
    text = re.sub(r"\r?\n[ \t]+", " ", text)
    said = PARTICIPANT.search(text)
    people = [one.split() for one in said[1].split(",")] if said else []
    names = {one[0]: one[1] for one in people if len(one) > 2}
    segments = []
    for line in text.split("\n"):
        speaker, colon, rest = line.partition(":")
        if not (colon and speaker.startswith("*")):
            continue
        times, plain = BULLET.findall(rest), plain_text(rest)
        fault = "not all of the utterance is understood or written down" if UNCLEAR.search(rest) else ""
        start, end = (int(times[0][0]) / 1000, int(times[-1][1]) / 1000) if times else (math.nan, math.nan)
        name = names.get(speaker[1:]) or f"{Path(where).stem}/{speaker[1:]}"
        segments.append(Segment(start, end, plain, name, fault=fault))
    segments = [segment for segment in segments if segment.text or segment.fault]
    timed = [segment for segment in segments if not math.isnan(segment.start)]
    if not timed:
        faults = [segment._replace(start=0.0) for segment in segments if segment.fault][:1]
        return [Tier("", faults or [Segment(0.0, math.nan, " ".join(segment.text for segment in segments))])]
    lost = "the utterance has no time, while others have one"
    placed, last = [], 0.0
    for segment in segments:
        untimed = math.isnan(segment.start)
        placed.append(segment._replace(start=last, end=last, fault=segment.fault or lost) if untimed else segment)
        last = placed[-1].end
    return [Tier("utterances", placed)]


def plain_text(line: str) -> str:
    """What is said in a main line of CHAT, "" if that is no word."""
    for code, plain in CODES:
        line = re.sub(code, plain, line)
    return " ".join(line.split()) if re.search(r"\w", line) else ""
