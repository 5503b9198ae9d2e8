"""Audio as mono float32 at 16 kHz: files, bytes and arrays, the whole or a segment, in one piece or as a stream."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from typing import Any

import numpy as np
import soxr

from speechssl.core.errors import InputError
from speechssl.sound.files import EXTENSIONS as EXTENSIONS
from speechssl.sound.files import FOREIGN as FOREIGN
from speechssl.sound.files import Sound, is_file, name_of, opened, that_seeks
from speechssl.sound.libsndfile import LOWEST_RATE
from speechssl.sound.mix import EACH, Mix, channel_names, channel_number, first_opposed, no_channel
from speechssl.sound.pieces import between, scaled

SAMPLE_RATE = 16_000
LOUDEST = 64.0  # samples lie within ±1, or a little beyond after a careless gain; larger ones have another unit
CHANNELS = 8  # the most that an array may have; longer rows are utterances
WAVES = (
    "array",
    "raw",
    "waveform",
)  # names of a wave in a dict: those of datasets, of transformers' pipelines, of pyannote
MARGIN = 0.05  # seconds of context around a segment, so that its resampled ends equal those of the whole file
PIECE = 10  # seconds that are decoded at once


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """duration: seconds, sample_rate: Hz."""

    duration: float
    sample_rate: int
    channels: int


def info(path: Any) -> AudioInfo:
    """Length, rate and channels of a file, as they are decoded. InputError if it cannot be opened."""
    sound = opened(path)
    try:
        return AudioInfo(duration=sound.length() / sound.rate, sample_rate=sound.rate, channels=sound.channels)
    finally:
        sound.close()


def channels_of(source: Any) -> list[str]:
    """The names of the channels of a file, which is opened but not decoded. InputError if it cannot be opened."""
    sound = opened(source)
    try:
        return channel_names(sound.channels)
    finally:
        sound.close()


def load(
    source: Any,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    channel: str = "mix",
) -> np.ndarray:
    """Load audio as mono float32 (S,) at 16 kHz.

    source: path, bytes, binary file, array or tensor (S,), (S, C) or (1, S), or what the library datasets hands out. start,
    duration: seconds; only that segment is given. sample_rate: rate of an array (None: 16 kHz). channel: mix (their mean),
    left, right, or a number from 0. Where the two channels of a recording cancel each other out (opposite phase), its mix is the
    louder one. InputError if a file is missing, cannot be decoded, is cut short or empty, and for samples that are NaN,
    infinite or far beyond ±1.
    """
    return joined(checked_pieces(source, start, duration, sample_rate, channel, at_once=True))


def stream(
    source: Any,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    channel: str = "mix",
) -> Iterator[np.ndarray]:
    """The same in pieces, so that memory holds some seconds of a file of any length."""
    yield from checked_pieces(source, start, duration, sample_rate, channel, at_once=False)


def checked_pieces(
    source: Any, start: float, duration: float | None, sample_rate: int | None, channel: str, *, at_once: bool
) -> Iterator[np.ndarray]:
    """Some pieces, or one where that takes no more memory."""
    source, rate = unwrapped(source)
    number, name, empty = channel_number(channel), "the array", True
    if is_file(source):
        name, pieces = name_of(source), segment(source, start, duration, number, at_once)
    else:
        rate = next(known for known in (rate, sample_rate, SAMPLE_RATE) if known is not None)
        pieces = iter([cut_array(from_array(source), start, duration, rate, number)])
    for piece_S in pieces:
        if len(piece_S):
            check_samples(piece_S, name)
            empty = False
            yield piece_S
    if empty:
        raise InputError(f"{name} holds no audio{f' at {start} s' if start else ''}; leave it out")


def unwrapped(source: Any) -> tuple[Any, int | None]:
    """What the library datasets and others hand out as (path, bytes or array; rate of the array): a dict with an array or a
    file, or a decoder of torchcodec. Their arrays have the channels first. Any other source is returned as it is."""
    rate = None
    wave = (
        next((source[name] for name in WAVES if source.get(name) is not None), None)
        if isinstance(source, dict)
        else None
    )
    if wave is not None:
        source, rate = wave, source.get("sampling_rate", source.get("sample_rate"))
        if rate is None:
            raise InputError("an array in a dict needs its rate: {'array': wave, 'sampling_rate': 16000}")
    elif isinstance(source, dict):
        data, path = source.get("bytes"), source.get("path")
        if data is None and path is None:
            raise InputError(
                f"a dict with {', '.join(map(str, source))} is not audio; give array and sampling_rate, or path"
            )
        return (path if data is None else data), None
    elif hasattr(source, "get_all_samples"):
        samples = source.get_all_samples()
        source, rate = samples.data, samples.sample_rate
    if rate is not None:
        source = plain(source)
        return (source.T if source.ndim == 2 and source.shape[0] <= CHANNELS < source.shape[1] else source), int(rate)
    return that_seeks(source) if is_file(source) else source, None


def segment(source: Any, start: float, duration: float | None, number: int, at_once: bool) -> Iterator[np.ndarray]:
    """Decode, mix and resample one segment of a file; its samples are those of the whole file resampled.

    For that, decoding begins where a sample of both rates falls on the same time, and a margin on both sides keeps the
    edge effects of the resampler out of the segment.
    """
    sound = opened(source)
    try:
        rate = sound.rate
        if number > sound.channels:
            raise InputError(no_channel(name_of(source), sound.channels, number))
        margin = MARGIN if rate != SAMPLE_RATE else 0.0
        step = rate // math.gcd(rate, SAMPLE_RATE)  # both rates have a sample at each multiple of it
        first = max(0, int((start - margin) * rate) // step * step)
        stop = None if duration is None else round((start + duration + margin) * rate)
        opposed = opposed_in(source, sound) if first and not number and sound.channels > 1 else None
        mix = Mix(number, PIECE * rate, opposed)
        mixed = map(mix, sound.pieces(first, stop, 2**40 if at_once else mix.size))
        found = iter([resample(joined(mixed), rate)]) if at_once else resampled(mixed, rate)
        skipped = round((start - first / rate) * SAMPLE_RATE)
        yield from between(found, skipped, None if duration is None else skipped + round(duration * SAMPLE_RATE))
    finally:
        sound.close()


def opposed_in(source: Any, sound: Sound) -> int:
    """The same of a file, whatever part of it is loaded."""
    if isinstance(source, (str, PathLike)):
        status = os.stat(source)
        return opposed_in_path(os.fspath(source), status.st_size, status.st_mtime_ns)
    return first_opposed(sound.pieces(0, None, PIECE * sound.rate)) or 0


@lru_cache(maxsize=4096)
def opposed_in_path(path: str, _size: int, _time: int) -> int:
    """The same, remembered as long as the file stays as it is."""
    sound = opened(path)
    try:
        return opposed_in(None, sound)
    finally:
        sound.close()


def joined(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """A stream as one array."""
    held = list(pieces) or [np.zeros(0, np.float32)]
    return held[0] if len(held) == 1 else np.concatenate(held)


def resample(wave_S: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz with soxr's high-quality filter."""
    return wave_S if rate == SAMPLE_RATE or not len(wave_S) else soxr.resample(wave_S, rate, SAMPLE_RATE)


def resampled(pieces: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The same of a stream."""
    if rate == SAMPLE_RATE:
        yield from pieces
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    yield from map(resampler.resample_chunk, pieces)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def check_samples(wave_S: np.ndarray, name: str) -> None:
    """InputError for samples that no audio has."""
    peak = float(np.abs(wave_S).max())  # NaN if any sample is
    if not math.isfinite(peak):
        raise InputError(f"{name} holds NaN or infinite samples; it is damaged, leave it out or convert it again")
    if peak > LOUDEST:
        raise InputError(
            f"{name} holds samples up to {peak:.3g}, but audio lies within ±1; divide 16-bit values by 32768"
        )


def batch(source: Any) -> list[Any] | None:
    """The utterances of a list of sources, or of an array (B, S); None for a single one.

    The rows of an array are utterances, and its columns channels: (S, C) with up to 8 channels, as soundfile gives it, is one
    recording. Nothing is ever mixed over rows. InputError for an empty list.
    """
    kind, shape = getattr(getattr(source, "dtype", None), "kind", ""), getattr(source, "shape", ())
    if (shape and kind in ("O", "U")) or (isinstance(source, Iterator) and not is_file(source)):
        source = list(source)  # a column of pandas, a generator
    if isinstance(source, Sequence) and not is_file(source):
        if not len(source):
            raise InputError("an empty list holds no audio; give one source or more")
        single = any(isinstance(part, (int, float, np.number)) for part in source)
        return None if single else list(source)
    return None if len(shape) != 2 or is_recording(shape) else list(source)


def several(source: Any, channel: str) -> list[tuple[Any, str]] | None:
    """(source, channel) of each clip in a batch, or of each channel of a recording for "each"; None for a single clip."""
    if (parts := batch(source)) is not None:
        return [(part, channel) for part in parts]
    if channel != EACH:
        return None
    source, rate = unwrapped(source)
    if is_file(source):
        return [(source, name) for name in channels_of(source)]
    array_SC = from_array(source)
    part = array_SC if rate is None else {"array": array_SC, "sampling_rate": rate}
    return [(part, name) for name in channel_names(array_SC.shape[1])]


def is_recording(shape: tuple[int, ...]) -> bool:
    """Whether a matrix is one recording (S, C)."""
    return shape[1] <= CHANNELS and shape[0] > shape[1]


def plain(source: Any) -> np.ndarray:
    """An array or tensor as numpy has it."""
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    try:
        return np.asarray(source)
    except ValueError:
        raise InputError(
            "audio is one array of numbers; give a pair (wave, rate) as load(wave, sample_rate=rate)"
        ) from None


def from_array(source: Any) -> np.ndarray:
    """An array or tensor as (S, C) within ±1; integers are scaled. InputError if it is not audio."""
    array = plain(source)
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise InputError(
            f"an array of shape {array.shape} and type {array.dtype} is not audio; give (samples,) numbers"
        )
    if array.dtype.kind != "f" and array.dtype.itemsize == 8:
        raise InputError("the full scale of 64-bit integers is not known; give float32 within ±1, or int16")
    if array.ndim == 2 and array.shape[0] != 1 and not is_recording(array.shape):
        raise InputError(
            f"an array of shape {array.shape} is {array.shape[0]} utterances, not one; channels are columns, (samples, "
            "channels): give its transpose if its rows are channels"
        )
    array_SC = array[:, None] if array.ndim == 1 else array.T if array.shape[0] == 1 else array
    return scaled(array_SC)


def cut_array(wave_SC: np.ndarray, start: float, duration: float | None, rate: int, number: int) -> np.ndarray:
    """A segment of an array, mixed and resampled."""
    if rate < LOWEST_RATE:
        raise InputError(f"sample_rate = {rate} is not the rate of an array of speech; give it in Hz, such as 16000")
    if number > wave_SC.shape[1]:
        raise InputError(no_channel("the array", wave_SC.shape[1], number))
    first = round(start * rate)
    stop = None if duration is None else first + round(duration * rate)
    wave_SC = wave_SC.astype(np.float32, copy=False)
    size = PIECE * rate
    found = None if number else first_opposed(wave_SC[i : i + size] for i in range(0, len(wave_SC), size))
    mix = Mix(number, size, found or 0)
    return resample(mix(wave_SC[first:stop]), rate)


def played(wave_S: np.ndarray, speed: float) -> np.ndarray:
    """A wave played `speed` times as fast, at the same rate: pitch and formants move too, as in another voice."""
    return wave_S if speed == 1 else soxr.resample(wave_S, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")


def between_silence(wave_S: np.ndarray, seconds: float) -> np.ndarray:
    """A wave with `seconds` of silence before and after it."""
    return np.pad(wave_S, round(seconds * SAMPLE_RATE)) if seconds else wave_S
