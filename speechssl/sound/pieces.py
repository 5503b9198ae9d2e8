"""Streams of pieces of audio: arrays of any length, whose first axis is time."""

from collections.abc import Iterable, Iterator

import numpy as np


def between(pieces: Iterable[np.ndarray], first: int, stop: int | None) -> Iterator[np.ndarray]:
    """The part of a stream from position `first` to `stop` (None: its end); nothing behind it is asked for."""
    at = 0
    for piece in pieces:
        end = at + len(piece)
        if end > first:
            yield piece[max(0, first - at) : None if stop is None else stop - at]
        at = end
        if stop is not None and at >= stop:
            return


def regrouped(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same stream in pieces of `size`, the last one shorter."""
    held: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= size:
            joined = held[0] if len(held) == 1 else np.concatenate(held)
            whole = count // size * size
            yield from (joined[start : start + size] for start in range(0, whole, size))
            held, count = [joined[whole:]] if count > whole else [], count - whole
    if count:
        yield np.concatenate(held)


def scaled(array: np.ndarray) -> np.ndarray:
    """Integers as numbers within ±1; unsigned ones have their zero in the middle, as in 8-bit wav files."""
    if array.dtype.kind == "f":
        return array
    limits = np.iinfo(array.dtype)
    half = (int(limits.max) - int(limits.min) + 1) / 2
    return (array - (limits.min + half)) / half
