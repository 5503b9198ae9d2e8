"""Open a file of audio or video by whichever library can decode it; its content decides, not its ending."""

import io
import os
import stat
from collections.abc import Iterator
from os import PathLike
from typing import Any, Protocol

import numpy as np

from speechssl.core.errors import InputError
from speechssl.sound.ffmpeg import Ffmpeg
from speechssl.sound.libsndfile import ForeignError, Libsndfile

# Endings by which folders are searched
EXTENSIONS = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mpga"),
    *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc", ".m4a", ".m4b", ".aac", ".amr", ".awb"),
    *(".wma", ".mka", ".weba", ".ac3", ".eac3", ".ape", ".wv", ".tta", ".gsm", ".dts", ".ra", ".svx", ".iff", ".avr"),
    *(".pvf", ".xi", ".paf", ".qcp", ".mpc", ".wv1", ".wv2"),  # the last two are WSJ's
)
FOREIGN = (  # those of video, whose first audio track is taken
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".webm", ".mkv", ".flv", ".f4v", ".avi", ".wmv", ".asf", ".ogv", ".mts"),
    *(".m2ts", ".mpg", ".mpeg", ".vob", ".rm"),
)


class Sound(Protocol):
    """An open file. rate: Hz."""

    rate: int
    channels: int

    def length(self) -> int:
        """The number of frames that can be decoded."""
        ...

    def pieces(self, first: int, stop: int | None, size: int) -> Iterator[np.ndarray]:
        """The frames from `first` to `stop` (None: the end) as float32 (up to `size`, channels). DamagedError for a part that
        is missing."""
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


def opened(source: Any) -> Sound:
    """Open a path, bytes or a binary file for reading, by libsndfile if it can, else by FFmpeg.

    InputError if it is not audio that can be decoded, DamagedError if it is cut short.
    """
    source, name = that_seeks(source), name_of(source)
    if isinstance(source, (str, PathLike)):
        check_file(source)
    try:
        return Libsndfile(source, name)
    except ForeignError as error:
        return Ffmpeg(source, name, str(error), **error.options)


def is_file(source: Any) -> bool:
    """Whether a source is a path, the bytes of a file, or an open one."""
    return isinstance(source, (str, PathLike, bytes, bytearray, memoryview)) or hasattr(source, "read")


def that_seeks(source: Any) -> Any:
    """Bytes, and what is left in a file that cannot seek (a pipe, the body of a page), as one that can; others unchanged."""
    if hasattr(source, "read") and not (hasattr(source, "seekable") and source.seekable()):
        source = source.read()
        if not isinstance(source, bytes):
            raise InputError("the file gives text, not bytes; open it with mode 'rb'")
    return io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source


def name_of(source: Any) -> str:
    """How errors call a file."""
    return str(source) if isinstance(source, (str, PathLike)) else str(getattr(source, "name", "the audio in memory"))


def check_file(path: str | PathLike) -> None:
    """InputError for a path that cannot be an audio file: missing, a folder, unreadable, empty."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} is missing; is the name right? If it is from a manifest, run `speechssl prepare` again"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', error)}); leave it out") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; name the audio files in it")
    if stat.S_ISFIFO(status.st_mode):
        raise InputError(f"{path} is a pipe, and files are read more than once; save what comes out of it in a file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a file with audio; leave it out")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (Permission denied); get permission to read it, or leave it out")
    if status.st_size == 0:
        raise InputError(f"{path} is an empty file; copy it again or leave it out")
