"""Audio that is still coming, from a pipe, a socket or a microphone: chunks of any length as mono float32 at 16 kHz."""

import math
import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from speechssl.core.errors import InputError
from speechssl.sound import audio
from speechssl.sound.headers import STREAMED
from speechssl.sound.libsndfile import LOWEST_RATE
from speechssl.sound.mix import mono
from speechssl.sound.pieces import regrouped, scaled

GROUP = 50  # a second's share of samples that are mixed and resampled together, whatever the chunks are
BYTES = (bytes, bytearray, memoryview)
DTYPES = {
    (1, 8): "u1",
    (1, 16): "<i2",
    (1, 24): "<i4",
    (1, 32): "<i4",
    (3, 32): "<f4",
    (3, 64): "<f8",
}  # by tag and bits
EXTENSIBLE = 0xFFFE  # the tag stands further behind
OTHERS = (b"OggS", b"fLaC", b"ID3", b"FORM", b".snd", b"RF64", b"RIFX", b"caff", b"\x1aE\xdf\xa3")


class Layout(NamedTuple):
    """What the bytes of a pipe are. rate: Hz. size: bytes of all samples, inf if they go on until the end."""

    rate: int
    channels: int
    dtype: str
    bits: int
    size: float


def live(chunks: Iterable[Any], rate: int | None, usual: int = audio.SAMPLE_RATE) -> Iterator[np.ndarray]:
    """Chunks of one stream, resampled without seams; samples do not depend on where chunks end.

    chunks: arrays or tensors, (S,) or (S, C), whose channels are averaged; or bytes, 16-bit little-endian mono samples unless a
    wav header comes first. rate: Hz, which a header must have too (None: of the header, else `usual`). InputError for what is no
    audio.
    """
    if isinstance(chunks, (str, PathLike, *BYTES)) or hasattr(chunks, "dtype"):
        raise InputError("a stream is made of chunks; give an iterable of arrays or bytes, such as [wave]")
    chunks = iter(chunks)
    first = next(chunks, b"")
    pieces = map(columns, chain([first], chunks))
    if isinstance(first, BYTES):
        pipe = Pipe(chain([first], chunks))
        layout = begin(pipe, usual if rate is None else rate)
        if rate not in (None, layout.rate):
            raise InputError(f"the wav on the pipe says {layout.rate} Hz, not {rate} Hz; leave the rate out")
        usual, pieces = layout.rate, decoded(pipe, layout)
    rate = usual if rate is None else rate
    if rate < LOWEST_RATE:
        raise InputError(f"a stream of {rate} Hz is no speech; give its rate in Hz, such as 16000")
    yield from audio.resampled(map(checked, regrouped(pieces, rate // GROUP)), rate)


def columns(chunk: Any) -> np.ndarray:
    """An array or tensor as (S, C) within ±1; unlike in a whole recording, there may be fewer samples than channels."""
    array = audio.plain(chunk)
    if array.ndim == 2 and array.shape[1] <= audio.CHANNELS:
        return audio.from_array(array.ravel()).reshape(array.shape)
    return audio.from_array(array)


def checked(piece_SC: np.ndarray) -> np.ndarray:
    """The mean of the channels (S,). InputError for samples that no audio has."""
    piece_S = mono(piece_SC.astype(np.float32, copy=False))
    audio.check_samples(piece_S, "the stream")
    return piece_S


class Pipe:
    """Chunks of bytes, of which any number can be taken."""

    def __init__(self, chunks: Iterator[Any]) -> None:
        self.chunks, self.held = chunks, b""

    def more(self) -> bool:
        """Wait for a chunk; whether there was one."""
        chunk = next(self.chunks, None)
        if chunk is not None and not isinstance(chunk, BYTES):
            raise InputError(f"the stream began with bytes and goes on with {type(chunk).__name__}; give only bytes")
        self.held += b"" if chunk is None else bytes(chunk)
        return chunk is not None

    def take(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        while len(self.held) < size and self.more():
            pass
        taken, self.held = self.held[:size], self.held[size:]
        return taken


def begin(pipe: Pipe, rate: int) -> Layout:
    """The layout that a wav header tells, which is taken from the pipe; samples without a header stay. InputError for the
    beginning of another kind of file."""
    head = pipe.take(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        return wav_layout(pipe)
    if head.startswith(OTHERS) or head[4:8] == b"ftyp":
        raise InputError(
            "what comes on the pipe must be decoded first: `ffmpeg -i FILE -f wav - | speechssl transcribe MODEL -`"
        )
    pipe.held = head + pipe.held
    return Layout(rate, 1, "<i2", 16, math.inf)


def wav_layout(pipe: Pipe) -> Layout:
    """Read the parts of a wav up to its samples; programs that cannot know their number write 0 or a huge one."""
    layout = None
    while len(head := pipe.take(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data" and layout is not None:
            return layout._replace(size=size if 0 < size < STREAMED else math.inf)
        part = pipe.take(size + size % 2)
        if name == b"fmt " and len(part) >= 16:
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", part[:16])
            tag = struct.unpack("<H", part[24:26])[0] if tag == EXTENSIBLE and len(part) >= 26 else tag
            if (tag, bits) not in DTYPES or not channels:
                raise InputError(
                    f"the wav on the pipe has {bits}-bit samples of kind {tag}; write 16-bit ones: `sox ... -b 16 -t wav -`"
                )
            layout = Layout(rate, channels, DTYPES[tag, bits], bits, math.inf)
    raise InputError("the wav on the pipe ends before its samples; was the program that writes it stopped?")


def decoded(pipe: Pipe, layout: Layout) -> Iterator[np.ndarray]:
    """The samples (S, C) within ±1; part of a sample at the very end, and what follows the samples of a wav, is no audio."""
    width, left = layout.channels * layout.bits // 8, layout.size
    while left >= width and (len(pipe.held) >= width or pipe.more()):
        size = int(min(len(pipe.held), left)) // width * width
        left -= size
        data = pipe.take(size)
        if layout.bits == 24:  # as the upper three bytes of 32 bits
            data = np.pad(np.frombuffer(data, "u1").reshape(-1, 3), ((0, 0), (1, 0))).tobytes()
        yield scaled(np.frombuffer(data, layout.dtype)).reshape(-1, layout.channels)
