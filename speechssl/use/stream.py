"""Run any number of clips through a model: threads decode ahead, packed batches are computed, results keep the order of the rows.

Memory holds one batch and the clips that are read ahead, however many clips there are. No batch crosses the border of a share
of SHARE rows, and processes take whole shares, so batches depend neither on the number of processes nor on an earlier kill.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.progress import Progress
from speechssl.data.channels import segment_of
from speechssl.data.manifest import Manifest, Utterance
from speechssl.sound import audio

SHARE = 128  # rows that one process takes at a time
BATCH = {"cpu": 30.0, "cuda": 240.0}  # seconds of audio in a batch; a GPU idles in small ones
AHEAD = 32  # clips that are decoded, or being decoded, before their turn; libsndfile releases the GIL


class Outcome(NamedTuple):
    """The result of row `index`. row: with its measured duration. value: the result, or the InputError in its place."""

    index: int
    row: Utterance
    value: Any


class TooShort(InputError):
    """A clip without a single frame."""


def own_rows(count: int, rank: int, world: int, finished: Iterable[tuple[int, int]] = ()) -> list[int]:
    """The rows of one of `world` processes, without those that lie in one of the ranges `finished`."""
    mine = np.arange(count) // SHARE % world == rank
    for first, stop in finished:
        mine[first:stop] = False
    return np.flatnonzero(mine).tolist()


def stream_clips(
    rows: Manifest,
    indices: Sequence[int],
    several: Callable[[list[np.ndarray]], list],
    one: Callable[..., Any],
    *,
    reach: int,
    longest: float,
    batch_seconds: float,
    what: str,
) -> Iterator[list[Outcome]]:
    """The results of some rows, batch by batch, in the order of `indices`, under a progress bar named `what`.

    several: computes waves, about `batch_seconds` at a time. one: computes a clip of more than `longest` seconds, called as
    one(path, start=..., duration=..., channel=...). reach: samples of the shortest clip that the model can take.
    """
    waiting: list[Outcome] = []
    total = 0.0
    progress = ClipProgress(rows, indices, what)
    with progress:
        for result in read_ahead(rows, indices, longest, reach):
            long = result.value is None
            new_share = bool(waiting) and result.index // SHARE != waiting[-1].index // SHARE
            if waiting and (new_share or long or total + result.row.duration > batch_seconds):
                yield progress.count(run_batch(waiting, several))
                waiting, total = [], 0.0
            if long:
                yield progress.count([run_long_clip(rows[result.index], result, one)])
            else:
                waiting.append(result)
                total += result.row.duration if isinstance(result.value, np.ndarray) else 0.0
        if waiting:
            yield progress.count(run_batch(waiting, several))


def read_ahead(rows: Manifest, indices: Iterable[int], longest: float, reach: int) -> Iterator[Outcome]:
    """The waves of some rows in order; None for a clip of more than `longest` seconds, InputError for one that is no use."""
    waiting: deque = deque()
    pool = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) // dist.world())))
    try:
        for index in indices:
            waiting.append(pool.submit(read, index, rows[index], longest, reach))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read(index: int, row: Utterance, longest: float, reach: int) -> Outcome:
    """Decode a row. At most `longest` + 1 s are read: more than `longest` means that the clip is processed in windows."""
    known = np.inf if np.isnan(row.duration) else row.duration
    try:
        segment = segment_of(row)
        segment["duration"] = min(known, longest + 1)
        wave_S = audio.load(row.path, **segment)
        if len(wave_S) > longest * audio.SAMPLE_RATE:
            seconds = known if np.isfinite(known) else audio.info(row.path).duration - row.start
            return Outcome(index, replace(row, duration=seconds), None)
        if len(wave_S) < reach:
            raise TooShort(f"{row.path} has {len(wave_S)} samples, which are less than one frame ({reach} samples)")
    except InputError as error:
        return Outcome(index, row, error)
    return Outcome(index, replace(row, duration=len(wave_S) / audio.SAMPLE_RATE), wave_S)


def run_batch(waiting: list[Outcome], several: Callable[[list[np.ndarray]], list]) -> list[Outcome]:
    """Replace the waves among some results by what `several` computes from them."""
    waves = [result.value for result in waiting if isinstance(result.value, np.ndarray)]
    values = iter(several(waves) if waves else ())
    return [r._replace(value=next(values)) if isinstance(r.value, np.ndarray) else r for r in waiting]


def run_long_clip(row: Utterance, result: Outcome, one: Callable[..., Any]) -> Outcome:
    """The result of a clip that `one` reads itself."""
    try:
        return result._replace(value=one(row.path, **segment_of(row)))
    except InputError as error:
        return result._replace(value=error)


def reason(result: Outcome) -> str:
    """Why a result has no value, without the name of its file."""
    return str(result.value).removeprefix(result.row.path).strip()


class ClipProgress(Progress):
    """Progress in seconds of audio if all durations are known, else in clips."""

    def __init__(self, rows: Manifest, indices: Sequence[int], what: str) -> None:
        self.seconds_R, self.audio_seconds, self.began = rows.durations, 0.0, monotonic()
        seconds = float(rows.durations[np.array(indices, dtype=np.int64)].sum())
        self.timed = not np.isnan(seconds)
        if self.timed:
            total, unit = seconds * (1 + 1e-9), "s audio"  # rounding must not make it more than 100 %
        else:
            total, unit = len(indices), "clip"
        super().__init__(total, unit, what, unit_scale=self.timed, show=len(rows) > 1)

    def count(self, batch: list[Outcome]) -> list[Outcome]:
        """Count a batch and return it."""
        self.audio_seconds += sum(result.row.duration for result in batch if not isinstance(result.value, InputError))
        if not self.timed:
            self.postfix(f"{self.audio_seconds / max(monotonic() - self.began, 1e-9):.0f} s audio/s")
        self.update(sum(float(self.seconds_R[result.index]) if self.timed else 1 for result in batch))
        return batch
