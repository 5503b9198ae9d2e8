"""Long audio in overlapping windows, read one at a time, so that memory stays constant.

The kept frames tile the clip, and each is computed from its own window. Attention and group norm see the window only, so
a kept frame is close to, but not the same as, the frame of the whole clip; the context around it keeps it close.
"""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechssl.core.packed import Geometry
from speechssl.sound import audio


class Window(NamedTuple):
    """wave_S: a piece of a clip with context around it. rows: the frames of the window that are kept."""

    wave_S: np.ndarray
    rows: slice


class Span(NamedTuple):
    """Where a window lies: samples `first` to `stop` of the clip (None: its end). rows: the frames that are kept."""

    first: int
    stop: int | None
    rows: slice


def windows(
    source: Any,
    geometry: Geometry,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    window: float = 30.0,
    context: float = 2.0,
    silence: float = 0.0,
) -> Iterator[Window]:
    """Yield a clip in windows of `window` seconds with `context` seconds on either side; a shorter clip is one window.

    source, start, duration, sample_rate: as in audio.load. silence: seconds joined to both ends of the clip, of which the windows
    are then. Less than one frame at the very end is left out. InputError as in audio.load.
    """
    added = round(silence * audio.SAMPLE_RATE)
    if isinstance(source, (str, PathLike)):
        seconds = audio.info(Path(source)).duration - start
        samples = round(min(seconds, seconds if duration is None else duration) * audio.SAMPLE_RATE)
    else:
        source = audio.load(source, start=start, duration=duration, sample_rate=sample_rate)
        samples = len(source)
    total = samples + 2 * added
    for span in plan(total, geometry.hop, window, context):
        first, stop = max(0, span.first - added), None if span.stop is None else max(0, span.stop - added)
        if isinstance(source, np.ndarray):
            wave_S = source[first:stop]
        elif stop == 0 or (added and first >= samples):
            wave_S = np.zeros(0, np.float32)  # nothing but silence
        else:
            wave_S = read(source, start, duration, Span(first, stop, span.rows))
        if added:
            end = total if span.stop is None else min(span.stop, total)
            before, after = min(added, end) - span.first, end - max(span.first, added + samples)
            wave_S = np.pad(wave_S, (max(0, before), max(0, after)))
        if len(wave_S) >= geometry.receptive_field:
            yield Window(wave_S, span.rows)


def plan(samples: int, hop: int, window: float, context: float) -> Iterator[Span]:
    """The windows of a clip of so many samples; window and context (seconds) are cut to whole frames, one at least."""
    size, margin = whole_frames(window, hop), whole_frames(context, hop)
    for start in range(0, max(samples, 1), size):
        first = max(0, start - margin)
        before = (start - first) // hop  # frames of context
        if start + size >= samples:
            yield Span(first, None, slice(before, None))
        else:
            yield Span(first, start + size + margin, slice(before, before + size // hop))


def whole_frames(seconds: float, hop: int) -> int:
    """Seconds as samples: the largest multiple of the hop, one hop at least."""
    return max(hop, round(seconds * audio.SAMPLE_RATE) // hop * hop)


def read(source: str | PathLike, start: float, duration: float | None, span: Span) -> np.ndarray:
    """The samples of a window, from a file whose clip begins at `start` and lasts `duration` seconds (None: to the end)."""
    offset = span.first / audio.SAMPLE_RATE
    if span.stop is not None:
        length = (span.stop - span.first) / audio.SAMPLE_RATE
    else:
        length = None if duration is None else duration - offset
    return audio.load(source, start=start + offset, duration=length)
