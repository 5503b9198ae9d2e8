"""Transcripts of conversations as tiers: Transcriber's .trs, CHAT of CLAN and TalkBank, NIST's CTM."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from speechssl.core.errors import InputError
from speechssl.data.aligned import Segment, Tier, root_of

PAUSE = 0.5  # seconds without a word, at which the words of a CTM file are cut into segments


def read_trs(text: str, where: str) -> list[Tier]:
    """The segments of a Transcriber file (trans-14.dtd), from one Sync to the next; where two speak at once, one for each."""
    segments: list[Segment] = []
    try:
        root = root_of(text)
        names = {speaker.get("id"): speaker.get("name") or "" for speaker in root.iter("Speaker")}
        for turn in root.iter("Turn"):
            speakers = [names.get(one, one) for one in (turn.get("speaker") or "").split()] or [""]
            pieces = list(pieces_of(turn))
            ends = [start for start, _ in pieces[1:]] + [float(turn.attrib["endTime"])]
            for (start, said), end in zip(pieces, ends, strict=True):
                for number, part in said.items():
                    speaker = speakers[min(number, len(speakers)) - 1]
                    segments.append(Segment(start, end, " ".join(part.split()), speaker))
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise InputError(
            f"{where} is not a whole Transcriber file ({error}); open it in Transcriber and save it again"
        ) from None
    return [Tier("turns", segments)]


def pieces_of(turn: ElementTree.Element) -> Iterator[tuple[float, dict[int, str]]]:
    """(start, number of the speaker -> what is said) of each stretch of a turn; events and comments have no text of their own."""
    start, number, said = float(turn.attrib["startTime"]), 1, {1: turn.text or ""}
    for mark in turn:
        if mark.tag == "Sync":
            if any(map(str.strip, said.values())):
                yield start, said
            start, number, said = float(mark.attrib["time"]), 1, {}
        elif mark.tag == "Who":
            number = int(mark.attrib["nb"])
        said[number] = f"{said.get(number, '')} {mark.tail or ''}"
    yield start, said


BULLET = re.compile(r"\x15(?:%\w+:\"[^\"]*\"_)?(\d+)_(\d+)\x15")  # milliseconds
UNCLEAR = re.compile(r"(?<!\S)(xxx?|yyy?|www)(?!\S)")  # unintelligible, in phones only, not transcribed
CODES = (  # CHAT's main line (MacWhinney, The CHILDES Project, part 1) -> what is said
    (r"\x15[^\x15]*\x15", " "),
    (r"\[[^\]]*\]", " "),  # comments, errors, repetitions
    (r"\((\.+|[\d.:]+)\)", " "),  # pauses
    (r"&[=*]\S+", " "),  # laughter; what another speaker says between
    (r"(?<!\S)0\w*", " "),  # words that are left out
    (r"(?<!\S)\+\S*", " "),  # how an utterance begins or ends
    (r"\(\w+\)|&[-~+]?|@[\w:$&]*|[<>⌈⌉⌊⌋↑↓→↗↘∆∇°▔☺Ϋ∬„‡^:]", ""),  # sounds left out, fillers, languages, loudness
    (r"[_+]", " "),  # parts of compounds
    (r"\s+(?=[.?!,;]+(\s|$))", ""),
)


def read_chat(text: str, where: str) -> list[Tier]:
    """The main lines of a CHAT file with their times; without any, the text of all as that of the whole recording.

    Utterances with a part that nobody understood (xxx) or wrote down (www) are left out.
    """
    if "@Begin" not in text:
        raise InputError(f"{where} has no line @Begin, with which CHAT begins; correct or remove it")
    segments, whole = [], []
    for line in re.sub(r"\r?\n[ \t]+", " ", text).split("\n"):
        speaker, colon, said = line.partition(":")
        if not (colon and speaker.startswith("*")):
            continue
        times = BULLET.findall(said)
        unclear = UNCLEAR.search(said)
        for code, plain in CODES:
            said = re.sub(code, plain, said)
        said = "" if unclear else " ".join(said.split())
        said = said if re.search(r"\w", said) else ""
        whole.append(said)
        if times:
            segments.append(Segment(int(times[0][0]) / 1000, int(times[-1][1]) / 1000, said, speaker[1:]))
    if not segments:
        return [Tier("", [Segment(0.0, float("nan"), " ".join(filter(None, whole)))])]
    return [Tier("utterances", segments)]


CTM = re.compile(r"\S+\s+\S+\s+(\d*\.?\d+)\s+(\d*\.?\d+)\s+(\S+)(?:\s.*)?")  # file channel start duration word


def read_ctm(text: str, where: str) -> list[Tier]:
    """The words of a CTM file of NIST, as Kaldi and NeMo write them, cut at pauses; <eps> and the like are no words."""
    segments: list[Segment] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        found = CTM.fullmatch(line.strip())
        if not found:
            raise InputError(f"{where} line {number} is not `file channel start duration word`; correct or remove it")
        start, length, word = float(found[1]), float(found[2]), found[3]
        if re.fullmatch(r"<.*>|\[.*\]|SIL|@", word):
            continue
        if segments and start - segments[-1].end < PAUSE:
            segments[-1] = segments[-1]._replace(end=start + length, text=f"{segments[-1].text} {word}")
        else:
            segments.append(Segment(start, start + length, word))
    return [Tier("captions", segments)]
