"""The formats that transcripts are written in: txt, srt, vtt and json."""

import json
from dataclasses import asdict

from speechssl.text.decode import PAUSE, Transcript, Word


def write(transcript: Transcript, style: str) -> str:
    """A transcript as txt, srt, vtt or json."""
    if style == "txt":
        return transcript.text + "\n"
    if style == "json":
        return json.dumps(asdict(transcript), ensure_ascii=False, indent=2) + "\n"
    comma = "," if style == "srt" else "."
    blocks = [] if style == "srt" else ["WEBVTT\n"]
    place = 0
    for number, words in enumerate(captions(transcript.words), 1):
        heading = f"{number}\n" if style == "srt" else ""
        times = f"{clock(words[0].start, comma)} --> {clock(words[-1].end, comma)}"
        text, place = stretch(transcript.text, words, place)
        blocks.append(f"{heading}{times}\n{text}\n")
    return "\n".join(blocks)


def stretch(text: str, words: list[Word], place: int) -> tuple[str, int]:
    """The part of a text that some of its words make, with the spaces between them as they are there, and where it ends. place:
    where to begin."""
    first = stop = text.index(words[0].text, place)
    for word in words:
        stop = text.index(word.text, stop) + len(word.text)
    return text[first:stop], stop


def captions(words: list[Word], seconds: float = 6.0, gap: float = PAUSE) -> list[list[Word]]:
    """Group words into captions: a new one starts where one would last over `seconds`, or after a pause of `gap`."""
    groups: list[list[Word]] = []
    for word in words:
        if groups and word.end - groups[-1][0].start <= seconds and word.start - groups[-1][-1].end < gap:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def clock(seconds: float, comma: str) -> str:
    """A time as hh:mm:ss,mmm, with `comma` before the milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{comma}{milliseconds % 1000:03d}"
