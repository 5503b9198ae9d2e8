"""From the channels of a recording to one: a channel by its name, or their mean, unless they cancel each other out."""

from collections.abc import Iterable

import numpy as np

from speechssl.core.errors import InputError

EACH = "each"  # every channel by itself
NAMED = {"": 0, "mix": 0, "left": 1, "right": 2}  # place among the mean and then the channels
SILENCE = 1e-4  # a peak below -80 dB of full scale
CANCELLED = 0.3  # of the power that the mean of unrelated channels has


def channel_number(channel: str | int) -> int:
    """The place of a channel among the mean (0) and then the channels (1 ...). InputError for what is none."""
    if str(channel).isdecimal():
        return 1 + int(channel)
    if channel not in NAMED:
        raise InputError(f"channel = {channel!r} is not left, right, mix or a number from 0")
    return NAMED[str(channel)]


def channel_names(channels: int) -> list[str]:
    """The names of the channels of a file."""
    return ["left", "right"][:channels] if channels <= 2 else [str(n) for n in range(channels)]


def no_channel(name: str, channels: int, number: int) -> str:
    """The error of a channel that a recording lacks."""
    return f"{name} has no channel {channel_names(number)[-1]!r}, only {', '.join(channel_names(channels))}; choose one of them"


class Mix:
    """Pieces (S, C) of a file, in order, to one channel (S,)."""

    def __init__(self, number: int, size: int, opposed: int | None = None) -> None:
        """number: as in channel_number. opposed: what `opposed` says of the file; None: its first `size`
        samples that are not silent decide."""
        self.number, self.size, self.opposed = number, size, opposed

    def __call__(self, piece_SC: np.ndarray) -> np.ndarray:
        if not self.number and self.opposed is None:
            self.opposed = first_opposed(piece_SC[i : i + self.size] for i in range(0, len(piece_SC), self.size))
        number = self.number or self.opposed
        return np.ascontiguousarray(piece_SC[:, number - 1]) if number else mono(piece_SC)


def opposed(piece_SC: np.ndarray) -> int | None:
    """The place (from 1) of the louder channel if channels cancel each other out in the mean, else 0. None for silence."""
    channels = piece_SC.shape[1]
    if channels == 1:
        return 0
    flat_N, mean_S = piece_SC.ravel(), mono(piece_SC)
    power = flat_N @ flat_N
    if not power > SILENCE**2 * len(piece_SC):
        return None
    if mean_S @ mean_S >= CANCELLED * power / channels**2:
        return 0  # before the channels are looked at one by one, which takes most of the time
    return 1 + int(np.square(piece_SC).sum(axis=0).argmax())


def first_opposed(pieces: Iterable[np.ndarray]) -> int | None:
    """The same of the first piece that is not silent."""
    return next((number for number in map(opposed, pieces) if number is not None), None)


def mono(wave_SC: np.ndarray) -> np.ndarray:
    """Average the channels; a matrix product, because numpy's mean over a short last axis takes twenty times as long."""
    channels = wave_SC.shape[1]
    return wave_SC[:, 0] if channels == 1 else wave_SC @ np.full(channels, 1 / channels, np.float32)
