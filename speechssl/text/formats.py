"""The formats that transcripts are written in: txt, srt, vtt and json."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

from speechssl.text.decode import PAUSE, Transcript, Word


def write(transcript: Transcript, style: str) -> str:
    """A transcript as txt, srt, vtt or json."""
    if style == "txt":
        return transcript.text + "\n"
    if style == "json":
        return json.dumps(plain(transcript), ensure_ascii=False, indent=2) + "\n"
    comma = "," if style == "srt" else "."
    blocks = [] if style == "srt" else ["WEBVTT\n"]
    for number, (start, end, channel, text) in enumerate(cues(transcript), 1):
        heading = f"{number}\n" if style == "srt" else ""
        speaker = "" if not channel else f"<v {channel}>" if style == "vtt" else f"{channel}: "
        blocks.append(f"{heading}{clock(start, comma)} --> {clock(end, comma)}\n{speaker}{text}\n")
    return "\n".join(blocks)


def plain(transcript: Transcript) -> dict[str, Any]:
    """A transcript for JSON: words have a channel where channels were transcribed one by one."""
    values = asdict(replace(transcript, best=[]))
    values["best"] = [
        {key: getattr(one, key) for key in ("text", "score", "acoustic", "lm")} for one in transcript.best
    ]
    if not transcript.best:
        del values["best"]
    if not values.pop("channels"):
        for word in values["words"]:
            del word["channel"]
    return values


def cues(transcript: Transcript, seconds: float = 6.0) -> list[tuple[float, float, str, str]]:
    """(start, end, channel, text) of each caption, in the order of time; captions of each channel by itself."""
    found = []
    for channel, part in (transcript.channels or {"": transcript}).items():
        place = 0
        for words in captions(part.words, seconds):
            text, place = stretch(part.text, words, place)
            found.append((words[0].start, words[-1].end, channel, text))
    return sorted(found, key=lambda cue: cue[0])


def stretch(text: str, words: list[Word], place: int) -> tuple[str, int]:
    """The part of a text that some of its words make, with the spaces between them as they are there, and where it ends. place:
    where to begin."""
    first = stop = text.index(words[0].text, place)
    for word in words:
        stop = text.index(word.text, stop) + len(word.text)
    return text[first:stop], stop


def dialogue(channels: dict[str, Transcript]) -> Transcript:
    """What was said on each channel of a recording as one transcript: a line per turn, which ends at a pause, and all words in
    the order of time."""
    words = [replace(word, channel=name) for name, part in channels.items() for word in part.words]
    words.sort(key=lambda word: word.start)
    duration = max(part.duration for part in channels.values())
    whole = Transcript(text="", words=words, duration=duration, channels=channels)
    lines = [f"{channel}: {text}" for _, _, channel, text in cues(whole, math.inf)]
    return replace(whole, text="\n".join(lines))


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
