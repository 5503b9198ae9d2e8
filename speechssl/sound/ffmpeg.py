"""Audio and video files that FFmpeg's libraries decode, through PyAV: m4a, mp4, webm, wma, amr, mp3 of unknown length and others.

Everything is decoded from its beginning: times in many containers are rounded, and decoders add noise that depends on what
they decoded before, so that only then a segment has the samples of the whole.
"""

from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np

from speechssl.core.errors import DamagedError, InputError
from speechssl.sound import headers
from speechssl.sound.pieces import between, regrouped, scaled

# What FFmpeg may take a file for: formats that hold their own audio. Playlists, which name other files, are left out.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,loas,matroska,mov,mp3,mpc,mpc8,mpeg,"
    "mpegts,nistsphere,ogg,qcp,rm,sox,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
TIMED = {"aiff", "ape", "asf", "au", "avi", "caf", "flv", "matroska,webm", "tta", "w64", "wav", "wv"}  # and mov
FRAMED = {"mp3", "ac3", "eac3"}  # frame after frame, mostly all of one size
SLACK = 0.1  # seconds that a file may be shorter than it says: times are rounded, and count what the encoder added
LOOSE = {"asf": 0.5, "flv": 0.5}  # in these they may be those of the video
PADDING = 4096  # frames that an encoder adds at the end at most


class Ffmpeg:
    """The first audio track of an open file. rate: Hz."""

    def __init__(self, source: Any, name: object, problem: str, **options: str) -> None:
        """source: a path or a binary file that can seek. problem: why libsndfile does not decode it. options: of the format.
        InputError if FFmpeg cannot either."""
        headers.check_atoms(source, name)
        headers.check_asf(source, name)
        self.source, self.name, self.problem, self.options = source, name, problem, options
        self.file: Any = None
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        self.rate, self.channels = self.stream.codec_context.sample_rate, self.stream.codec_context.channels

    def open(self) -> None:
        """Open the file, again if it has been open."""
        import av

        self.close()
        self.file = open(self.source, "rb") if isinstance(self.source, (str, PathLike)) else self.source
        self.file.seek(0)
        try:
            how: dict[str, Any] = {"options": {"format_whitelist": FORMATS, **self.options}}
            if int(av.__version__.split(".")[0]) < 19:
                how["metadata_errors"] = "replace"  # tags in other encodings, as later versions read them
            self.container: Any = av.open(self.file, "r", **how)
        except (av.FFmpegError, ValueError):
            raise InputError(f"{self.name} cannot be decoded ({self.problem}); is it audio at all?") from None
        if self.container.format.name == "ogg":
            headers.check_last_page(self.source, self.name)
        if not self.container.streams.audio:
            raise InputError(f"{self.name} holds no audio track; leave it out")
        self.stream: Any = self.container.streams.audio[0]
        if not self.stream.codec_context or not self.stream.codec_context.sample_rate:
            raise InputError(f"{self.name} cannot be decoded (its codec is not known); convert it to wav")
        self.fresh = True

    def close(self) -> None:
        """Close the file, unless it was given open."""
        if self.file is not None:
            if hasattr(self, "container"):
                self.container.close()
            if self.file is not self.source:
                self.file.close()

    def length(self) -> int:
        """The number of frames."""
        return sum(len(piece) for piece in self.pieces(0, None, self.rate * 10))

    def declared(self) -> int | None:
        """The number of frames that the container tells, None if it does not or only estimates them."""
        kind = self.container.format.name
        if self.options or (kind not in TIMED and not kind.startswith("mov")):
            return None
        seconds = None
        if self.stream.duration:
            seconds = self.stream.duration * self.stream.time_base
        elif ":" in (text := self.stream.metadata.get("DURATION", "")):  # matroska
            hours, minutes, rest = text.split(":")
            begin = (self.stream.start_time or 0) * self.stream.time_base
            seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest) - max(0, begin)
        elif self.container.duration and len(self.container.streams) == 1:
            seconds = self.container.duration / 1e6
        return None if seconds is None else round(seconds * self.rate)

    def pieces(self, first: int, stop: int | None, size: int) -> Iterator[np.ndarray]:
        """The frames from `first` to `stop` (None: the end) as float32 (`size`, channels), the last piece shorter."""
        if not self.fresh:
            self.open()
        self.fresh = False
        yield from regrouped(between(self.checked(), first, stop), size)

    def checked(self) -> Iterator[np.ndarray]:
        """All frames but what the encoder added at the end. DamagedError if fewer come than the container tells."""
        kind, declared, count = self.container.format.name, self.declared(), 0
        exact = kind.startswith("mov")
        beyond: list[np.ndarray] = []
        for piece in self.decoded():
            count += len(piece)
            if not exact or not declared or count <= declared or count > declared + PADDING:
                yield from beyond
                yield piece
                beyond.clear()
            else:
                keep = max(0, len(piece) - (count - declared))
                yield piece[:keep]
                beyond.append(piece[keep:])
        slack = self.rate * LOOSE.get(kind, SLACK) + PADDING * exact
        if declared and count < declared - slack:
            raise DamagedError(self.name, f"truncated ({count} of {declared} samples)")

    def decoded(self) -> Iterator[np.ndarray]:
        """All frames that come."""
        import av

        count, last, earlier, spoilt, kind = 0, b"", set(), False, self.container.format.name
        try:
            for packet in self.container.demux(self.stream):
                spoilt |= packet.is_corrupt and not self.options
                if kind in FRAMED and packet.size and (kind != "mp3" or bytes(packet)[:1] == b"\xff"):
                    earlier |= {len(last)} - {0}
                    last = bytes(packet)
                for frame in self.frames(packet):
                    if frame.sample_rate != self.rate or frame.layout.nb_channels != self.channels:
                        raise InputError(f"{self.name} changes its rate or channels on the way; convert it to wav")
                    piece_SC = as_float(frame)
                    count += len(piece_SC)
                    yield piece_SC
        except av.FFmpegError as error:
            problem = f"it breaks off after {count} samples: {reason_of(error)}"
            raise DamagedError(self.name, f"truncated ({problem})") from None
        if spoilt or is_cut(last, earlier):
            raise DamagedError(self.name, f"truncated (its last frame, after {count} samples, is not whole)")

    def frames(self, packet: Any) -> list[Any]:
        """What a packet holds; nothing where it is junk between the frames of an mp3, each of which begins with ones."""
        import av

        try:
            return packet.decode()
        except av.InvalidDataError:
            if self.container.format.name == "mp3" and bytes(packet)[:1] not in (b"", b"\xff"):
                return []
            raise


def is_cut(last: bytes, earlier: set[int]) -> bool:
    """Whether the last frame is shorter than it says, as those of mp3 do, or than the others if these are of one size."""
    declared = headers.mp3_sizes().get((last[1] & 0xFE, last[2] & 0xFE)) if len(last) > 2 else None
    return (
        len(last) < declared
        if declared
        else bool(earlier) and max(earlier) - min(earlier) <= 2 and len(last) < min(earlier)
    )


def as_float(frame: Any) -> np.ndarray:
    """The samples of a frame as float32 (S, C) within ±1."""
    array = frame.to_ndarray()
    array_SC = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    return scaled(array_SC).astype(np.float32, copy=False)


def reason_of(error: Exception) -> str:
    """What FFmpeg says, without numbers and names of files."""
    return str(getattr(error, "strerror", None) or error)
