"""A batch as one stream: utterances laid end to end, so that no arithmetic is spent on padding and no padding leaks in.

Every utterance starts on a multiple of the encoder's stride (`hop`, 320 samples for wav2vec 2.0). At each layer of the
convolutional encoder its frames are therefore a prefix of its own span, with the same values as if it were alone; the few
frames whose receptive field reaches into the next utterance follow that prefix and are dropped at the end.

Shapes: N samples of the stream, S samples of one utterance, T frames, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The lengths that a stack of valid convolutions gives (wav2vec 2.0, section 2: stride 20 ms, receptive field 25 ms)."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    late: int = 0
    """Samples by which the centre of a frame lies after that of its receptive field, as where two short frames are joined."""

    @property
    def centre(self) -> float:
        """Samples from the start of an utterance to the centre of its first frame."""
        return self.receptive_field / 2 + self.late

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: the product of the strides."""
        return int(np.prod(self.strides))

    @property
    def receptive_field(self) -> int:
        """Samples that one frame depends on."""
        field = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            field = (field - 1) * stride + kernel
        return field

    def frames(self, samples: int, layers: int | None = None) -> int:
        """Frames of `samples` after the first `layers` convolutions (None: all); 0 if there are too few samples."""
        for kernel, stride in list(zip(self.kernels, self.strides, strict=True))[:layers]:
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples


@dataclass(frozen=True, kw_only=True)
class Movable:
    """Base of batches: a dataclass of tensors, other batches and plain values, which is moved as a whole."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device; the copy of a pinned batch is asynchronous."""
        return self.each(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory; called by torch's DataLoader."""
        return self.each(Tensor.pin_memory)

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same batch with `change` applied to every tensor."""
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
            elif isinstance(value, Movable):
                changed[field.name] = value.each(change)
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Packed(Movable):
    """A batch of B utterances as one stream.

    stream_N: float32 samples, N a multiple of the hop. samples, frames: length of each utterance, on the host. rate: Hz.
    valid_T: indices of the T = sum(frames) frames, among the N / hop of the stream, that belong to an utterance.
    """

    stream_N: Tensor
    samples: tuple[int, ...]
    frames: tuple[int, ...]
    valid_T: Tensor
    rate: int = 16_000


def pack(
    waves: Sequence[np.ndarray | Tensor], geometry: Geometry, *, normalise: bool = False, rate: int = 16_000
) -> Packed:
    """Lay utterances (each float (S,)) end to end, each on a multiple of the hop.

    normalise: standardise each utterance first, as LARGE models expect. InputError for an utterance that is shorter than
    the receptive field of one frame.
    """
    samples = tuple(len(wave) for wave in waves)
    frames = tuple(geometry.frames(length) for length in samples)
    if not samples or min(frames) == 0:
        short = min(samples, default=0)
        raise InputError(
            f"an utterance of {short} samples is shorter than one frame ({geometry.receptive_field} samples at {rate} Hz); "
            "leave it out (`speechssl prepare` does so)"
        )
    spans = [-(-length // geometry.hop) * geometry.hop for length in samples]
    stream = np.zeros(sum(spans), dtype=np.float32)
    for start, wave in zip(starts(spans), waves, strict=True):
        array = np.asarray(wave, dtype=np.float32)
        stream[start : start + len(array)] = standardise(array) if normalise else array
    valid = [np.arange(n) + start // geometry.hop for n, start in zip(frames, starts(spans), strict=True)]
    return Packed(
        stream_N=torch.from_numpy(stream),
        samples=samples,
        frames=frames,
        valid_T=torch.from_numpy(np.concatenate(valid)),
        rate=rate,
    )


def standardise(wave_S: np.ndarray) -> np.ndarray:
    """Shift and scale to zero mean and unit variance, as Wav2Vec2FeatureExtractor of transformers does."""
    return (wave_S - wave_S.mean(dtype=np.float64)) / np.sqrt(wave_S.var(dtype=np.float64) + 1e-7)


def on_device(values: Sequence[int], device: torch.device, dtype: torch.dtype = torch.long) -> Tensor:
    """A few numbers of the host as a tensor on `device`; the copy is asynchronous."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def starts(lengths: Sequence[int]) -> list[int]:
    """The start of each segment of a stream."""
    return [0, *accumulate(lengths)][:-1]


def segments(lengths: Sequence[int]) -> list[slice]:
    """The segments of a stream as slices."""
    return [slice(a, b) for a, b in pairwise([0, *accumulate(lengths)])]
