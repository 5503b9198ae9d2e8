"""Long audio in overlapping windows, read one at a time, so that memory stays constant.

The kept frames tile the clip, and each is computed from its own window. Attention and group norm see the window only, so
a kept frame is close to, but not the same as, the frame of the whole clip; the context around it keeps it close.
"""

from collections.abc import Iterator
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np

from speechssl.core.packed import Geometry
from speechssl.sound import audio


class Window(NamedTuple):
    """wave_S: a piece of a clip with context around it. rows: the frames of the window that are kept."""

    wave_S: np.ndarray
    rows: slice


def windows(
    source: Any,
    geometry: Geometry,
    *,
    window: float = 30.0,
    context: float = 2.0,
    silence: float = 0.0,
    **segment: Any,
) -> Iterator[Window]:
    """Yield a clip in windows of `window` seconds with `context` seconds on either side; a shorter clip is one window.

    source, segment: as in audio.load. silence: seconds joined to both ends of the clip, of which the windows are then. Less than
    one frame at the very end is left out. InputError as in audio.load.
    """
    quiet_S = np.zeros(round(silence * audio.SAMPLE_RATE), np.float32)
    clip = Ahead(chain([quiet_S], audio.stream(source, **segment), [quiet_S]))
    size, margin = whole_frames(window, geometry.hop), whole_frames(context, geometry.hop)
    for start in count(0, size):
        first = max(0, start - margin)
        wave_S = clip.read(first, start + size + margin)
        last, before = first + len(wave_S) <= start + size, (start - first) // geometry.hop  # frames of context
        if len(wave_S) >= geometry.receptive_field:
            yield Window(wave_S, slice(before, None if last else before + size // geometry.hop))
        if last:
            return


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
