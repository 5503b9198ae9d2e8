"""Is what a header says of the length borne out by the bytes of the file? No audio is decoded here.

What libsndfile found while it opened a file stands in its log; Ogg, mp3 and sphere are looked at in the file itself.
"""

import contextlib
import mmap
import os
import re
import struct
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product
from os import PathLike
from typing import Any

from speechssl.core.errors import DamagedError

RIFFS = ("WAV", "WAVEX", "RF64")
STREAMED = 0x7FFF0000  # bytes; sizes from here on stand for "not known yet" in headers of 32 bits
JUNK = 4096  # bytes after the samples that may be a tag or padding
# How files begin that `cat` put behind others
JOINED = {"OGG": re.compile(rb"OggS\x00[\x02\x06]"), "FLAC": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")}
WAV = re.compile(rb"RIFF....WAVE(?:fmt |JUNK|bext|LIST)", re.DOTALL)
SIZES = re.compile(r"\b(data|SSND|BODY|Data Size|Data length|riff)\s*:?\s+(\d+) \(?should be (\d+)")  # declared, there
OUTSIDE = {"SSND": 8, "riff": 104}  # bytes of such a size that are no samples
FRAMES = re.compile(r"^\s*Frames\s*:\s*(\d+)\s*$", re.MULTILINE)  # declared
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
BYTES = re.compile(r"seems to be truncated\. (\d+) <--> (\d+)")  # there, declared
AFTER = re.compile(r"Unknown chunk marker \(\w+\) at position (\d+)\. Exiting parser")


def check_log(name: object, kind: str, log: str, frames: int) -> None:
    """DamagedError if libsndfile found fewer bytes than the header promises. kind: of file. frames: those that are there."""
    for part, declared, there in SIZES.findall(log) if "should be" in log else ():
        missing = int(declared) - int(there)
        if missing > 0 and int(declared) < STREAMED:
            outside = OUTSIDE.get(part, 0)
            refuse_cut(name, frames, round(frames * (int(declared) - outside) / max(1, int(there) - outside)))
    for declared in FRAMES.findall(log) if kind in ("AVR", "RF64") else ():
        refuse_cut(name, frames, int(declared))
    for there, declared in BYTES.findall(log):
        refuse_cut(name, frames, round(frames * int(declared) / max(1, int(there))))
    if "Seems to be a truncated file" in log:  # VOC
        raise DamagedError(name, "truncated (it ends before its header says)")


def refuse_cut(name: object, frames: int, declared: int) -> None:
    """DamagedError if a file has fewer frames than it tells."""
    if frames < declared:
        raise DamagedError(name, f"truncated ({frames} of {declared} samples)")


def ends_early(source: Any, frames: int, log: str) -> bool:
    """Whether samples go on behind the length in the header of a wav: it was never filled in, or not brought up to date."""
    if frames and "Exiting parser" not in log:
        return False
    size = size_of(source)
    return (not frames and size > JUNK) or any(size - int(position) > JUNK for position in AFTER.findall(log))


def check_sphere(source: Any, name: object, frames: int) -> None:
    """DamagedError if a NIST file has fewer frames than its text header says."""
    declared = re.search(rb"sample_count -i (\d+)", peek(source, 0, 4096))
    if declared:
        refuse_cut(name, frames, int(declared[1]))


def check_last_page(source: Any, name: object) -> None:
    """DamagedError for an Ogg file that ends inside a page or a packet. A missing mark of the end is no sign: streams lack it."""
    size = size_of(source)
    tail = peek(source, max(0, size - 2**17), 2**17)
    page = tail[max(0, tail.rfind(b"OggS")) :]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(lengths) == page[26] and len(page) >= 27 + page[26] + sum(lengths)
    ended = whole and page[5] & 4  # a packet that fills its last part is followed by an empty one
    if not whole or (not ended and lengths[-1:] == b"\xff"):
        raise DamagedError(name, "truncated (its last page is not whole)")


def check_atoms(source: Any, name: object) -> None:
    """DamagedError if a part of an mp4 or mov, each of which begins with its size, ends behind the file."""
    at, size = 0, size_of(source)
    while len(head := peek(source, at, 16)) >= 8:
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if (at == 0 and kind not in (b"ftyp", b"mdat", b"moov", b"wide", b"free", b"skip")) or length < 8:
            return  # something else, or the part that lasts to the end
        at += length
        if at > size and kind not in (b"free", b"skip"):
            raise DamagedError(name, f"truncated ({size} of {at} bytes)")


def check_asf(source: Any, name: object) -> None:
    """DamagedError if a wma or asf has fewer bytes than its header says."""
    head, size = peek(source, 0, 2**16), size_of(source)
    if head[:4] == b"\x30\x26\xb2\x75" and (at := head.find(ASF_PROPERTIES)) > 0 and len(head) > at + 48:
        (declared,) = struct.unpack("<Q", head[at + 40 : at + 48])  # 0 in streams
        if declared > size:
            raise DamagedError(name, f"truncated ({size} of {declared} bytes)")


def check_mp3(source: Any, name: object) -> bool | None:
    """Whether an mp3 holds as many bytes and frames as the table in its first frame says; None for what is no mp3.

    DamagedError if bytes are missing. False if there is more, or if there is no table.
    """
    start, head = 0, peek(source, 0, 10)
    if head[:3] == b"ID3" and len(head) == 10:
        size = [byte & 0x7F for byte in head[6:]]
        start = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) + (10 if head[5] & 0x10 else 0)
        head = peek(source, start, 10)
    if head[:1] != b"\xff" or head[1:2] < b"\xe0":
        return None
    table = re.search(rb"(?:Xing|Info)\x00\x00\x00[\x03\x07\x0b\x0f](.{4})(.{4})", peek(source, start, 256), re.DOTALL)
    if not table:
        return False
    (frames,), (declared,), there = (
        struct.unpack(">I", table[1]),
        struct.unpack(">I", table[2]),
        size_of(source) - start,
    )
    if there < declared:
        raise DamagedError(name, f"truncated ({there} of {declared} bytes)")
    tagged = peek(source, size_of(source) - 128, 3) == b"TAG"
    if there != declared + 128 * tagged:
        return False
    if isinstance(source, (str, PathLike)):
        status = os.stat(source)
        return frames_of_path(os.fspath(source), start, declared, status.st_size, status.st_mtime_ns) == frames
    with contents(source) as data:
        return frames_between(data, start, start + declared) == frames


@lru_cache(maxsize=65_536)
def frames_of_path(path: str, start: int, declared: int, _size: int, _time: int) -> int:
    """frames_between in a file, remembered as long as the file stays as it is."""
    with contents(path) as data:
        return frames_between(data, start, start + declared)


def frames_between(data: Any, start: int, stop: int) -> int:
    """How many frames of an mp3 fill the bytes from `start` to `stop`, not counting the first one, which is a table; -1 if
    something else lies between them."""
    sizes, count = mp3_sizes(), -1
    while (
        start < stop and data[start] == 0xFF and (size := sizes.get((data[start + 1] & 0xFE, data[start + 2] & 0xFE)))
    ):
        start, count = start + size, count + 1
    return count if start == stop else -1


@cache
def mp3_sizes() -> dict[tuple[int, int], int]:
    """The second and third byte of a frame of layer III, without the bits that change nothing -> its bytes."""
    low = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # kbit/s
    high = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    found = {}
    for second, rates, factor, bits in (
        (0xFA, (44_100, 48_000, 32_000), 144, high),
        (0xF2, (22_050, 24_000, 16_000), 72, low),
        (0xE2, (11_025, 12_000, 8_000), 72, low),
    ):
        for number, rate, padding in product(range(14), range(3), range(2)):
            third = (number + 1) << 4 | rate << 2 | padding << 1
            found[second, third] = factor * bits[number] * 1000 // rates[rate] + padding
    return found


def split(source: Any, kind: str) -> list[bytes]:
    """The files of one kind that were put together with `cat`; [] if it is one only."""
    if kind not in JOINED:
        return []
    with contents(source) as data:
        return cut_at(data, JOINED[kind])


def split_wav(source: Any) -> list[bytes]:
    """The same for wav, of which libsndfile opens a single one only."""
    if peek(source, 0, 4) != b"RIFF":
        return []
    with contents(source) as data:
        return cut_at(data, WAV)


def cut_at(data: Any, pattern: re.Pattern[bytes]) -> list[bytes]:
    """The pieces of `data` that begin with a pattern. Pages of Ogg that begin streams side by side begin one piece only."""
    starts: list[int] = []
    mark, at = pattern.pattern[:4], -1
    while (at := data.find(mark, at + 1)) >= 0:  # ten times as fast as the expression alone
        if pattern.match(data, at) and (not starts or at - starts[-1] > JUNK // 8):
            starts.append(at)
    stops = [*starts[1:], len(data)]
    return [bytes(data[a:b]) for a, b in zip(starts, stops, strict=True)] if len(starts) > 1 else []


def size_of(source: Any) -> int:
    """Bytes of a path or a file."""
    if isinstance(source, (str, PathLike)):
        return os.path.getsize(source)
    at = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(at)
    return size


def peek(source: Any, start: int, size: int) -> bytes:
    """Some bytes of a path or a file, which stays where it was."""
    if isinstance(source, (str, PathLike)):
        descriptor = os.open(source, os.O_RDONLY)
        try:
            return os.pread(descriptor, size, max(0, start))
        finally:
            os.close(descriptor)
    at = source.tell()
    source.seek(max(0, start))
    found = source.read(size)
    source.seek(at)
    return found


@contextlib.contextmanager
def contents(source: Any) -> Iterator[Any]:
    """All bytes of a path or a file."""
    if isinstance(source, (str, PathLike)) and size_of(source) > 2**20:
        with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    else:
        yield peek(source, 0, size_of(source))
