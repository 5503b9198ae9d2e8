"""Long audio in windows that are cut in its pauses, read one at a time, so that memory stays constant.

The kept frames tile the clip, and each is computed from its own window. Attention and group norm see the window only: one
between two pauses is to the model what an utterance of its training was. Where there is no pause, neighbours overlap, so that
a kept frame has context on both sides and no word is lost or doubled.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from speechssl.core.packed import Geometry
from speechssl.sound import audio

STEP = audio.SAMPLE_RATE // 100  # of the level of audio
SPAN = 30  # steps over which it is averaged: the closure of a plosive is shorter, a pause is not
NEAR = 1000  # steps of audio that are judged by the noise and the speech among them
# a pause is within 4.5 dB of the quietest span nearby, which is 12 dB below the loudest
NOISE, SPEECH = 10**0.45, 10**1.2
# a sound of two seconds whose level stays within 2 dB is no speech, however loud: a hum, a hiss
STEADY, LONG = 10**0.2, 200
UNHEARD = 1e-8  # power below which all is silence
KEPT = 10  # steps of a long pause that stay with the speech beside it, and half a span; what is between is a part of its own


class Window(NamedTuple):
    """wave_S: a piece of a clip with context around it. rows: the frames of the window that are kept. pause: whether it ends in
    one. silent: whether nothing is in it but the noise of a pause, or digital silence."""

    wave_S: np.ndarray
    rows: slice
    pause: bool
    silent: bool


class Part(NamedTuple):
    """The part of a stream from sample `start` to `stop`. pause, silent: as of a window. wave_S: with the context around it, from
    `first` on."""

    first: int
    start: int
    stop: int
    pause: bool
    silent: bool
    wave_S: np.ndarray


def windows(
    source: Any,
    geometry: Geometry,
    *,
    window: float = 30.0,
    context: float = 2.0,
    utterance: float | None = None,
    silence: float = 0.0,
    **segment: Any,
) -> Iterator[Window]:
    """Yield a clip in windows of at most `window` seconds with `context` seconds on either side.

    utterance: a window ends at the first pause after so many seconds, and has half a SPAN of context there. None: in the quietest
    place of its second half, with the whole context. source, segment: as in audio.load. silence: seconds joined to both ends of
    the clip, of which the windows are then. Less than one frame at the very end is left out. InputError as in audio.load.
    """
    quiet_S = np.zeros(round(silence * audio.SAMPLE_RATE), np.float32)
    pieces, hop = chain([quiet_S], audio.stream(source, **segment), [quiet_S]), geometry.hop
    shortest = None if utterance is None else round(utterance * audio.SAMPLE_RATE)
    for part in parts(pieces, whole_frames(window, hop), shortest, context=whole_frames(context, hop), hop=hop):
        before, last = (part.start - part.first) // hop, part.first + len(part.wave_S) == part.stop
        if len(part.wave_S) >= geometry.receptive_field:
            rows = slice(before, None if last else before + (part.stop - part.start) // hop)
            yield Window(part.wave_S, rows, part.pause, part.silent)


def parts(
    pieces: Iterable[np.ndarray], longest: int, shortest: int | None = None, *, context: int = 0, hop: int = STEP
) -> Iterator[Part]:
    """A stream in parts of at most `longest` samples, cut at the first pause after `shortest` samples (None: at none), or else
    where the second half of the longest is quietest, with a quarter of the longest left behind it; always at a multiple of `hop`.
    A stream that is no longer than the longest stays whole."""
    clip, start, before, in_pause = Ahead(iter(pieces)), 0, 0, max(hop, SPAN * STEP // 2 // hop * hop)
    while True:
        past = min(start, max(before, 0 if shortest is None else NEAR * STEP // 2 // hop * hop))
        held_S = clip.read(start - past, start + longest + max(context, longest // 4, NEAR * STEP))
        wave_S, rest, cut, after = held_S[past - before :], len(held_S) - past, None, in_pause
        if shortest is not None and (start or rest > longest):
            cut = first_pause(held_S[: past + longest + NEAR * STEP // 2], past, shortest, longest)
        length, pause, silent = (0, False, False) if cut is None else (cut[0], True, cut[1])
        if not pause and rest > longest:
            half, after = longest // 2, context
            length = half + quietest(wave_S[before + half : before + min(longest, rest - longest // 4)])
        last = not length
        length = rest if last else max(hop, length // hop * hop)
        own_S = wave_S[: before + length + after]
        yield Part(start - before, start, start + length, pause, silent or steady(own_S), own_S)
        if last:
            return
        start, before = start + length, min(after, start + length)


def levels(wave_S: np.ndarray, span: int = SPAN) -> np.ndarray:
    """The mean power of `span` steps from each step on, of the change between samples, which holds no offset and little hum."""
    steps = len(wave_S) // STEP
    change_S = np.diff(wave_S[: steps * STEP], prepend=wave_S[:1])
    sums_T = np.square(change_S).reshape(steps, STEP).sum(axis=1, dtype=np.float64).cumsum()
    return (sums_T[span - 1 :] - np.concatenate([[0.0], sums_T[:-span]])) / (span * STEP)


def steady(wave_S: np.ndarray) -> bool:
    """Whether a sound is no speech because its level does not change: digital silence, or noise for two seconds or more. Speech
    stands out of noise that is as loud as itself by 3 dB."""
    if len(wave_S) < LONG * STEP:
        return not wave_S.any()
    level_T = levels(wave_S)  # as it is: speech may be recorded however faintly
    return bool(level_T.max() <= STEADY * level_T.min())


def quietest(wave_S: np.ndarray) -> int:
    """The sample in the middle of the quietest span: in a pause, however loud its noise, or else in the weakest sound."""
    span = min(SPAN, max(1, len(wave_S) // STEP // 2))
    return (int(levels(wave_S, span).argmin()) * 2 + span) * STEP // 2


def first_pause(wave_S: np.ndarray, start: int, shortest: int, longest: int) -> tuple[int, bool] | None:
    """Samples from `start` to where its part is cut, in the first pause between `shortest` and `longest`; None if there is none.
    A long pause is cut twice, and becomes a part of its own: then the second value is True."""
    level_T, own = np.maximum(levels(wave_S), UNHEARD), start // STEP
    for first in range(0, len(level_T), NEAR // 2):
        near_T = level_T[first : first + NEAR]
        if near_T.max() < SPEECH * near_T.min():
            continue
        edges = np.flatnonzero(np.diff(near_T <= NOISE * near_T.min(), prepend=False, append=False)) + first
        for begin, end in zip(edges[::2], edges[1::2] - 1, strict=True):  # the first and the last span of a pause
            inside, long = begin <= own, end - max(begin, own) > 2 * KEPT + SPAN
            place = end - KEPT if inside else begin + KEPT if long else (begin + end) // 2
            cut = (place - own + SPAN // 2) * STEP
            if cut >= shortest and (long or not inside):
                return (int(cut), bool(inside)) if cut <= longest else None
    return None


class Ahead:
    """A stream of which the last samples are held, so that parts that overlap can be read one after the other."""

    def __init__(self, pieces: Iterator[np.ndarray]) -> None:
        self.pieces, self.held_S, self.begin = pieces, np.zeros(0, np.float32), 0

    def read(self, first: int, stop: int) -> np.ndarray:
        """Samples `first` to `stop`, fewer at the end; what lies before `first` is forgotten."""
        self.held_S, self.begin = self.held_S[first - self.begin :], first
        while len(self.held_S) < stop - first and (piece_S := next(self.pieces, None)) is not None:
            self.held_S = np.concatenate([self.held_S, piece_S]) if len(self.held_S) else piece_S
        return self.held_S[: stop - first]


def whole_frames(seconds: float, hop: int) -> int:
    """Seconds as samples: the largest multiple of the hop, one hop at least."""
    return max(hop, round(seconds * audio.SAMPLE_RATE) // hop * hop)
