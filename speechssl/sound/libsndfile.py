"""Audio files that libsndfile decodes: wav, flac, ogg, opus, aiff, au, caf, sphere and others, and mp3 of a known length.

libsndfile believes the length in a header. So a header is compared with the bytes of the file first (`headers`); where it
cannot be trusted, FFmpeg decodes until nothing is left.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import soundfile

from speechssl.core.errors import DamagedError, InputError
from speechssl.sound import headers
from speechssl.sound.pieces import between

LOWEST_RATE = 2_000  # Hz; a header with less is wrong
PREROLL = 0.5  # seconds; after a jump an Opus decoder needs some time until it gives the same samples
SLACK = 0.01  # seconds that may be missing at the end: the padding of lossy formats


class ForeignError(Exception):
    """Not for libsndfile. options: for FFmpeg."""

    def __init__(self, problem: str, **options: str) -> None:
        super().__init__(problem)
        self.options = options


class Libsndfile:
    """An open file. rate: Hz."""

    def __init__(self, source: Any, name: object) -> None:
        """source: a path or a binary file that can seek. ForeignError for what FFmpeg must try, DamagedError for a cut file."""
        sure = headers.check_mp3(source, name)
        if sure is False:
            raise ForeignError("Format not recognised")
        self.source = os.fspath(source) if isinstance(source, PathLike) else source
        self.name, self.read_before = name, False
        self.joined: list[bytes] = []  # wav files that were put together with `cat`
        self.open()
        self.rate, self.channels, self.format = self.file.samplerate, self.file.channels, self.file.format
        try:
            self.check(sure is True)
        except BaseException:
            self.close()
            raise

    def open(self) -> None:
        """Open the file, again if it has been open."""
        if hasattr(self.source, "seek"):
            self.source.seek(0)
        try:
            self.file = soundfile.SoundFile(self.source)
        except UnicodeEncodeError:
            raise InputError(f"{self.name} has a name with bytes that are not UTF-8; rename the file") from None
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            if not (joined := headers.split_wav(self.source)):
                problem = str(error).removeprefix(f"Error opening {self.source!r}: ").rstrip(".")
                unknown = problem.startswith("File does not exist")  # libsndfile says so of a text that is called .mp3
                raise ForeignError("Format not recognised" if unknown else problem) from None
            self.joined, self.source = joined, io.BytesIO(joined[0])
            self.open()

    def check(self, mp3: bool) -> None:
        """Compare the header with the bytes that are there."""
        if self.rate < LOWEST_RATE:
            raise InputError(f"{self.name} has a header that cannot be right ({self.rate} Hz); write the file again")
        if self.file.frames >= 2**40 or (self.file.subtype.startswith("MPEG") and not mp3):
            raise ForeignError("its length is not known")
        log, frames = self.file.extra_info, self.file.frames
        if self.format in headers.RIFFS and headers.ends_early(self.source, frames, log):
            raise ForeignError("its length is wrong", ignore_length="1")
        if self.format == "OGG":
            headers.check_last_page(self.source, self.name)
        elif self.format == "NIST":
            headers.check_sphere(self.source, self.name, frames)
        else:
            headers.check_log(self.name, self.format, log, frames)

    def close(self) -> None:
        """Close the file, unless it was given open."""
        self.file.close()

    def length(self) -> int:
        """The number of frames, those of files that were joined to this one with `cat` too."""
        return sum(part.file.frames for part in self.parts())

    def parts(self) -> list["Libsndfile"]:
        """The files that were put together with `cat`, each as long as its own header says; this one, if it is one only."""
        pieces = self.joined or headers.split(self.source, self.format)
        parts: list[Libsndfile] = [self]
        if len(pieces) > 1:
            parts = [Libsndfile(io.BytesIO(piece), self.name) for piece in pieces]
        if len({(part.rate, part.channels) for part in parts}) > 1:
            raise InputError(f"{self.name} was put together from recordings of different rates or channels; split it")
        return parts

    def pieces(self, first: int, stop: int | None, size: int) -> Iterator[np.ndarray]:
        """The frames from `first` to `stop` (None: the end) as float32 (up to `size`, channels)."""
        within = stop is not None and stop <= self.file.frames
        for part in [self] if within else self.parts():
            frames = part.file.frames
            if first < frames and (stop is None or stop > 0):
                yield from part.own_pieces(first, frames if stop is None else min(stop, frames), size)
            first, stop = max(0, first - frames), None if stop is None else stop - frames

    def own_pieces(self, first: int, stop: int, size: int) -> Iterator[np.ndarray]:
        """The same of this part alone. DamagedError where it breaks off."""
        at = self.seek(first)
        yield from between(self.decoded(at, stop, size), first - at, stop - at)

    def seek(self, first: int) -> int:
        """Jump to a frame, or to an earlier one from which on all samples are right; return where."""
        again, self.read_before = self.read_before, True
        if not again and not first:
            return 0
        if self.file.seekable():
            at = max(0, first - round(PREROLL * self.rate)) if self.file.subtype == "OPUS" else first
            with self.breaking_off():
                return self.file.seek(at)
        if again:
            self.file.close()
            self.open()
        return 0

    def decoded(self, at: int, stop: int, size: int) -> Iterator[np.ndarray]:
        """The frames from here, which is `at`, to `stop`."""
        while at < stop:
            with self.breaking_off():
                block_SC = self.file.read(min(size, stop - at), dtype="float32", always_2d=True)
            if not len(block_SC):
                break
            at += len(block_SC)
            yield block_SC
        if at < stop - self.rate * SLACK:
            raise DamagedError(self.name, f"truncated ({at} of {self.file.frames} samples)")

    @contextlib.contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Turn an error of the decoder into one that tells how far it came."""
        try:
            yield
        except (soundfile.LibsndfileError, RuntimeError):
            self.file.close()
            self.open()
            frames, count = self.file.frames, 0
            with contextlib.suppress(soundfile.LibsndfileError, RuntimeError):
                while size := len(self.file.read(1024)):
                    count += size
            raise DamagedError(self.name, f"truncated ({count} of {frames} samples)") from None
