"""Long audio in overlapping windows, read one at a time: memory stays constant, and the frames kept are those of the whole."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechssl.core.packed import Geometry
from speechssl.sound import audio


class Window(NamedTuple):
    """wave_S: samples with context around them. rows: the frames of the window that lie in no other."""

    wave_S: np.ndarray
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
) -> Iterator[Window]:
    """A clip as windows of `window` seconds with `context` seconds on either side; one window if it is no longer than that.

    source, start, duration, sample_rate: as in audio.load. Less than one frame at the very end is left out.
    """
    if isinstance(source, (str, PathLike)):
        known = min(duration or np.inf, audio.info(Path(source)).duration - start)
        samples = round(known * audio.SAMPLE_RATE)
    else:
        source = audio.load(source, start=start, duration=duration, sample_rate=sample_rate)
        samples = len(source)
    for first, stop, before, kept in plan(samples, geometry.hop, window, context):
        wave_S = source[first:stop] if isinstance(source, np.ndarray) else read(source, start, duration, first, stop)
        if len(wave_S) >= geometry.receptive_field:
            yield Window(wave_S, slice(before, kept and before + kept))


def read(source: Any, start: float, duration: float | None, first: int, stop: int | None) -> np.ndarray:
    """Samples `first` to `stop` (None: the end) of a segment of a file."""
    offset = first / audio.SAMPLE_RATE
    length = (stop - first) / audio.SAMPLE_RATE if stop is not None else duration and duration - offset
    return audio.load(source, start=start + offset, duration=length)


def plan(samples: int, hop: int, window: float, context: float) -> Iterator[tuple[int, int | None, int, int | None]]:
    """(first sample, last sample, frames of context before, frames kept) of each window; None: to the end."""
    size, margin = (max(hop, round(seconds * audio.SAMPLE_RATE) // hop * hop) for seconds in (window, context))
    for start in range(0, max(samples, 1), size):
        first, last = max(0, start - margin), start + size >= samples
        yield first, None if last else start + size + margin, (start - first) // hop, None if last else size // hop
