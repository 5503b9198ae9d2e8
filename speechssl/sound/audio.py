"""Decode, mix to mono and resample: any file that libsndfile reads becomes float32 at 16 kHz, the whole or a segment."""

import math
import os
import shlex
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from speechssl.core.errors import InputError

SAMPLE_RATE = 16_000
EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".sph")
FOREIGN = (".m4a", ".aac", ".mp4", ".wma", ".amr", ".webm", ".flv", ".mka")
LOUDEST = 64.0  # samples lie within ±1, or a little beyond after a careless gain; larger ones have another unit
CHANNELS = 8  # the most that an array may have; more rows are taken for utterances
LOWEST_RATE = 2_000  # Hz; a header with less is wrong
MARGIN = 0.05  # seconds of context around a segment, so that its resampled ends equal those of the whole file


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """duration: seconds, sample_rate: Hz."""

    duration: float
    sample_rate: int
    channels: int


def info(path: str | Path) -> AudioInfo:
    """Length, rate and channels, from the header of a file. InputError if it cannot be opened."""
    with opened(path) as file:
        return AudioInfo(duration=file.frames / file.samplerate, sample_rate=file.samplerate, channels=file.channels)


def load(
    source: Any, *, start: float = 0.0, duration: float | None = None, sample_rate: int | None = None
) -> np.ndarray:
    """Load audio as mono float32 (S,) at 16 kHz.

    source: path, binary file object, array or tensor, (S,) or with a second, smaller axis of channels. start, duration:
    seconds; only that segment is decoded. sample_rate: rate of an array (None: 16 kHz). InputError if a file is missing,
    cannot be decoded or is empty, and for samples that are NaN, infinite or far beyond ±1.
    """
    if isinstance(source, (str, PathLike)) or hasattr(source, "read"):
        name = str(source)
        wave_S = read_segment(source, start, duration)
    else:
        name = "the array"
        wave_S = from_array(source, start, duration, SAMPLE_RATE if sample_rate is None else sample_rate)
    if not len(wave_S):
        raise InputError(f"{name} holds no audio{f' at {start} s' if start else ''}; leave it out")
    if not np.isfinite(wave_S).all():
        raise InputError(f"{name} holds NaN or infinite samples; it is damaged, leave it out or convert it again")
    if (peak := float(np.abs(wave_S).max())) > LOUDEST:
        raise InputError(
            f"{name} holds samples up to {peak:.3g}, but audio lies within ±1; divide 16-bit values by 32768"
        )
    return wave_S


def opened(source: Any) -> soundfile.SoundFile:
    """Open a path or a binary file object for reading. InputError if it is not audio that can be decoded."""
    if isinstance(source, (str, PathLike)):
        check_file(Path(source))
    elif hasattr(source, "seek"):
        source.seek(0)
    try:
        file = soundfile.SoundFile(source)
    except UnicodeEncodeError:
        raise InputError(f"{source} has a name with bytes that are not UTF-8; rename the file") from None
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        problem = str(error).removeprefix(f"Error opening {str(source)!r}: ").rstrip(".")
        raise InputError(f"{source} cannot be decoded ({problem}); is it audio at all?") from None
    if file.samplerate < LOWEST_RATE or file.frames >= 2**40:
        file.close()
        problem = f"{file.samplerate} Hz" if file.samplerate < LOWEST_RATE else "it was streamed and has no length"
        raise InputError(f"{source} has a header that cannot be right ({problem}); write the file again")
    return file


def check_file(path: Path) -> None:
    """InputError for a path that cannot be an audio file: missing, a folder, unreadable, empty, of a foreign format."""
    try:
        size, folder = path.stat().st_size, path.is_dir()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} is missing; is the name right? If it is from a manifest, run `speechssl prepare` again"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', error)}); leave it out") from None
    if folder:
        raise InputError(f"{path} is a folder; name the audio files in it")
    if not path.is_file():
        raise InputError(f"{path} is not a file with audio; leave it out")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (Permission denied); get permission to read it, or leave it out")
    if size == 0:
        raise InputError(f"{path} is an empty file; copy it again or leave it out")
    if path.suffix.lower() in FOREIGN:
        names = f"{shlex.quote(path.name)} {shlex.quote(path.stem + '.wav')}"
        raise InputError(f"{path}: {path.suffix} cannot be decoded; convert it: ffmpeg -i {names}")


def read_segment(source: Any, start: float, duration: float | None) -> np.ndarray:
    """Decode, mix and resample one segment; its samples are those of the whole file resampled.

    For that, decoding begins where a sample of both rates falls on the same time, and a margin on both sides keeps the
    edge effects of the resampler out of the segment.
    """
    with opened(source) as file:
        rate = file.samplerate
        margin = MARGIN if rate != SAMPLE_RATE else 0.0
        step = rate // math.gcd(rate, SAMPLE_RATE)  # both rates have a sample at each multiple of it
        first = max(0, int((start - margin) * rate) // step * step)
        stop = file.frames if duration is None else min(file.frames, round((start + duration + margin) * rate))
        try:
            file.seek(min(first, file.frames))
            wave_SC = file.read(max(0, stop - first), dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise InputError(f"{source} breaks off while decoding ({error}); copy it again or leave it out") from None
    wave_S = resample(mono(wave_SC), rate)
    skipped = round((start - first / rate) * SAMPLE_RATE)
    length = None if duration is None else round(duration * SAMPLE_RATE)
    return wave_S[skipped:][:length]


def mono(wave_SC: np.ndarray) -> np.ndarray:
    """Average the channels; a matrix product, because numpy's mean over a short last axis takes twenty times as long."""
    channels = wave_SC.shape[1]
    return wave_SC[:, 0] if channels == 1 else wave_SC @ np.full(channels, 1 / channels, np.float32)


def from_array(source: Any, start: float, duration: float | None, rate: int) -> np.ndarray:
    """Turn an array or tensor into mono float32 at 16 kHz; integers are scaled to ±1. InputError if it is not audio."""
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    try:
        array = np.asarray(source)
    except ValueError:
        raise InputError(
            "audio is one array of numbers; give a pair (wave, rate) as load(wave, sample_rate=rate)"
        ) from None
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu" or (array.ndim == 2 and min(array.shape) > CHANNELS):
        raise InputError(
            f"an array of shape {array.shape} and type {array.dtype} is not audio; give (samples,) numbers"
        )
    if array.dtype.kind != "f" and array.dtype.itemsize == 8:
        raise InputError("the full scale of 64-bit integers is not known; give float32 within ±1, or int16")
    if rate < LOWEST_RATE:
        raise InputError(f"sample_rate = {rate} is not the rate of an array of speech; give it in Hz, such as 16000")
    if array.dtype.kind != "f":  # unsigned samples have their zero in the middle, as in 8-bit wav files
        limits = np.iinfo(array.dtype)
        half = (int(limits.max) - int(limits.min) + 1) / 2
        array = (array - (limits.min + half)) / half
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)))
    first = round(start * rate)
    stop = None if duration is None else first + round(duration * rate)
    return resample(array[first:stop].astype(np.float32), rate)


def played(wave_S: np.ndarray, speed: float) -> np.ndarray:
    """A wave played `speed` times as fast, at the same rate: pitch and formants move too, as in another voice."""
    return wave_S if speed == 1 else soxr.resample(wave_S, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")


def resample(wave_S: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz with soxr's high-quality filter."""
    if rate == SAMPLE_RATE or not len(wave_S):
        return wave_S.astype(np.float32, copy=False)
    return soxr.resample(wave_S, rate, SAMPLE_RATE).astype(np.float32, copy=False)


def between_silence(wave_S: np.ndarray, seconds: float) -> np.ndarray:
    """A wave with `seconds` of silence before and after it."""
    return np.pad(wave_S, round(seconds * SAMPLE_RATE)) if seconds else wave_S
