"""What was said in a clip, and when; without torch, so that writing it is light."""

from dataclasses import dataclass, field, replace
from typing import Any

PAUSE = 1.0  # seconds without a letter, which end a word even where no space is written


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word from `start` to `end` (seconds); score: mean probability of its characters. In a script without spaces, and from a
    model that cannot write them, each letter is a word, as is each phone."""

    text: str
    start: float
    end: float
    score: float
    channel: str = ""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The text of a clip and its words with their times; duration: seconds that the frames cover.

    channels: what was said on each, if they were transcribed one by one. letters: those of given words, with their times
    (align.align). doubted: words that are left out, since the model is not sure that they are any (doubt.py). unmatched: of a
    given text, what is not said, and what is said but not in it (gaps.align_parts). best: the likeliest texts
    (search.Hypothesis), where several were asked for.
    """

    text: str
    words: list[Word]
    duration: float
    channels: "dict[str, Transcript]" = field(default_factory=dict)
    letters: list[Word] = field(default_factory=list)
    doubted: list[Word] = field(default_factory=list)
    unmatched: list[Word] = field(default_factory=list)
    best: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text


def later(transcript: Transcript, seconds: float) -> Transcript:
    """The same with all times, the duration too, counted from `seconds` before the beginning of the clip, such as that of its
    file."""

    def moved(words: list[Word]) -> list[Word]:
        return [replace(w, start=round(w.start + seconds, 3), end=round(w.end + seconds, 3)) for w in words]

    return replace(
        transcript,
        words=moved(transcript.words),
        letters=moved(transcript.letters),
        doubted=moved(transcript.doubted),
        unmatched=moved(transcript.unmatched),
        channels={name: later(part, seconds) for name, part in transcript.channels.items()},
        duration=transcript.duration + seconds,
    )
