"""The formats that transcripts are written in, by the rows of FORMATS at the end."""

import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from speechssl.text.scripts import spaceless
from speechssl.text.transcript import PAUSE, Transcript, Word

LINE = 42  # letters in a line of a caption, of which there are two; wide letters count twice


def write(transcript: Transcript, style: str, name: str = "audio") -> str:
    """A transcript in one of FORMATS. name: of the recording, for the formats that hold it."""
    return FORMATS[style](transcript, name)


def write_json(transcript: Transcript, _name: str) -> str:
    """Text, words with times and scores, channels, and the likeliest texts where several were asked for."""
    return json.dumps(plain(transcript), ensure_ascii=False, indent=2) + "\n"


def write_captions(transcript: Transcript, style: str) -> str:
    """Captions as srt or vtt."""
    comma = "," if style == "srt" else "."
    blocks = [] if style == "srt" else ["WEBVTT\n"]
    for number, (start, end, channel, text) in enumerate(cues(transcript), 1):
        heading = f"{number}\n" if style == "srt" else ""
        speaker = "" if not channel else f"<v {channel}>" if style == "vtt" else f"{channel}: "
        blocks.append(f"{heading}{clock(start, comma)} --> {clock(end, comma)}\n{speaker}{in_lines(text)}\n")
    return "\n".join(blocks)


def write_ctm(transcript: Transcript, name: str) -> str:
    """NIST's CTM: recording, channel, start, duration, word, score."""
    rows = []
    for word in transcript.words:
        channel = word.channel or "1"
        length = max(word.end - word.start, 0.0)
        rows.append(f"{name.replace(' ', '_')} {channel} {word.start:.3f} {length:.3f} {word.text} {word.score:.4f}\n")
    return "".join(rows)


def tiers(transcript: Transcript) -> list[tuple[str, str, list[tuple[float, float, str]]]]:
    """(name, speaker, (start, end, text) of its parts) of the captions and of the words, for each channel."""
    found = []
    for channel, part in (transcript.channels or {"": transcript}).items():
        of = f" - {channel}" if channel else ""
        spoken = [(start, end, text) for start, end, _, text in cues(replace(part, channels={}))]
        words = [(word.start, word.end, word.text) for word in part.words]
        found += [(f"utterances{of}", channel, spoken), (f"words{of}", channel, words)]
    return found


def write_textgrid(transcript: Transcript, _name: str) -> str:
    """Praat's TextGrid: a tier of utterances and one of words, for each channel; what is not said is an empty interval."""
    last = max([transcript.duration, *(word.end for word in transcript.words)])
    named = tiers(transcript)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {last:.3f}"]
    lines += ["tiers? <exists>", f"size = {len(named)}", "item []:"]
    for number, (name, _, parts) in enumerate(named, 1):
        intervals = list(without_gaps(parts, last))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {praat(name)}"]
        lines += ["        xmin = 0", f"        xmax = {last:.3f}", f"        intervals: size = {len(intervals)}"]
        for place, (start, end, text) in enumerate(intervals, 1):
            lines += [f"        intervals [{place}]:", f"            xmin = {start:.3f}"]
            lines += [f"            xmax = {end:.3f}", f"            text = {praat(text)}"]
    return "\n".join(lines) + "\n"


def praat(text: str) -> str:
    """A text between quotes, those inside it doubled."""
    return '"' + text.replace('"', '""') + '"'


def without_gaps(parts: Sequence[tuple[float, float, str]], last: float) -> list[tuple[float, float, str]]:
    """Intervals from 0 to `last` that touch: empty ones between those that are said, which may not overlap."""
    done, place = [], 0.0
    for start, end, text in parts:
        start, end = max(start, place), max(end, place)
        if end - start < 1e-3:
            end = start + 1e-3
        if start - place >= 1e-3:
            done.append((place, start, ""))
        else:
            start = place
        done.append((start, end, text))
        place = end
    return [*done, (place, last, "")] if last - place >= 1e-3 else done


def write_elan(transcript: Transcript, name: str) -> str:
    """ELAN's .eaf (EAF 3.0): a tier of utterances and one of words, for each channel."""
    slots, body, number = [], [], 0
    for tier, speaker, parts in tiers(transcript):
        marks = []
        for start, end, text in parts:
            number += 1
            first, second = f"ts{2 * number - 1}", f"ts{2 * number}"
            for slot, time in ((first, start), (second, end)):
                slots.append(f'<TIME_SLOT TIME_SLOT_ID="{slot}" TIME_VALUE="{round(1000 * time)}"/>')
            marks.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{number}" TIME_SLOT_REF1="{first}" '
                f'TIME_SLOT_REF2="{second}"><ANNOTATION_VALUE>{escape(text)}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>'
            )
        who = f" PARTICIPANT={quoteattr(speaker)}" if speaker else ""
        body.append(f'<TIER LINGUISTIC_TYPE_REF="default" TIER_ID={quoteattr(tier)}{who}>')
        body += [*marks, "</TIER>"]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<ANNOTATION_DOCUMENT AUTHOR="speechssl" DATE="1970-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
            'xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">',
            f'<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"><MEDIA_DESCRIPTOR MEDIA_URL={quoteattr(name)} '
            'MIME_TYPE="audio/x-wav"/></HEADER>',
            *("<TIME_ORDER>", *slots, "</TIME_ORDER>", *body),
            '<LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default" TIME_ALIGNABLE="true"/>',
            "</ANNOTATION_DOCUMENT>\n",
        ]
    )


def plain(transcript: Transcript) -> dict[str, Any]:
    """A transcript for JSON: words have a channel where channels were transcribed one by one."""
    values = asdict(replace(transcript, best=[]))
    values["best"] = [
        {key: getattr(one, key) for key in ("text", "score", "acoustic", "lm")} for one in transcript.best
    ]
    for name in ("best", "letters", "doubted", "unmatched"):
        if not values[name]:
            del values[name]
    for name in ("letters", "doubted", "unmatched"):
        for part in values.get(name, ()):
            del part["channel"]
    if not values.pop("channels"):
        for word in values["words"]:
            del word["channel"]
    return values


def cues(transcript: Transcript, seconds: float = 6.0) -> list[tuple[float, float, str, str]]:
    """(start, end, channel, text) of each caption, in the order of time; captions of each channel by itself."""
    found, letters = [], 2 * LINE if math.isfinite(seconds) else math.inf
    for channel, part in (transcript.channels or {"": transcript}).items():
        place = 0
        for words in captions(part.words, seconds, letters=letters):
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
    doubted = [word for part in channels.values() for word in part.doubted]
    whole = Transcript(text="", words=words, duration=duration, channels=channels, doubted=doubted)
    lines = [f"{channel}: {text}" for _, _, channel, text in cues(whole, math.inf)]
    return replace(whole, text="\n".join(lines))


def width(text: str) -> int:
    """Letters as a line of a caption counts them: wide ones twice, marks not at all."""
    marks = sum(unicodedata.category(letter)[0] == "M" for letter in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def captions(
    words: Sequence[Word], seconds: float = 6.0, gap: float = PAUSE, letters: float = 2 * LINE
) -> list[list[Word]]:
    """Group words into captions: one ends at a pause of `gap`. One that would last over `seconds`, or have over `letters`, is
    divided in the longest pause of its second half."""
    groups: list[list[Word]] = []
    for word in words:
        if not groups or word.start - groups[-1][-1].end >= gap:
            groups.append([word])
            continue
        group = [*groups[-1], word]
        room = sum(width(one.text) + (not spaceless(one.text)) for one in group) - 1
        if word.end - group[0].start <= seconds and room <= letters:
            groups[-1] = group
            continue
        pauses = [after.start - before.end for before, after in pairwise(group)]
        half = len(pauses) // 2
        cut = 1 + max(range(half, len(pauses)), key=lambda place: (round(pauses[place], 3), place))
        groups[-1:] = [group[:cut], group[cut:]]
    return groups


def in_lines(text: str) -> str:
    """The text of a caption in two lines of about the same length if it is too long for one; it is divided at a space, or in a
    script without spaces anywhere."""
    if width(text) <= LINE:
        return text
    places = [place for place, letter in enumerate(text) if letter == " "]
    if not places or spaceless(text):
        places = list(range(1, len(text)))
    cut = min(places, key=lambda place: abs(width(text[:place]) - width(text[place:])))
    return f"{text[:cut].rstrip()}\n{text[cut:].lstrip()}"


def clock(seconds: float, comma: str) -> str:
    """A time as hh:mm:ss,mmm, with `comma` before the milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{comma}{milliseconds % 1000:03d}"


FORMATS: dict[str, Callable[[Transcript, str], str]] = {  # by the ending of the file
    "txt": lambda transcript, _: transcript.text + "\n",
    "srt": lambda transcript, _: write_captions(transcript, "srt"),
    "vtt": lambda transcript, _: write_captions(transcript, "vtt"),
    "json": write_json,
    "ctm": write_ctm,
    "TextGrid": write_textgrid,
    "eaf": write_elan,
}
