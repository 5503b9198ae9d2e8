"""Any number of clips through a model: decoded ahead by threads, computed in packed batches, given back in their order.

Memory holds a batch and the clips read ahead of it, however many there are. Batches never reach over a share of SHARE rows, and
processes take whole shares, so neither their number nor where a killed run stopped changes any batch.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.data.manifest import Manifest, Utterance
from speechssl.sound import audio

SHARE = 128  # rows that one process takes at a time
BATCH = {"cpu": 30.0, "cuda": 240.0}  # seconds of audio in a batch; a GPU idles in small ones
AHEAD = 32  # clips that are decoded, or being decoded, before their turn; decoding lets other threads run


class Result(NamedTuple):
    """What became of row `index`. row: with the duration that was found. value: or the InputError that says why there is none."""

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


def stream(
    rows: Manifest,
    indices: Sequence[int],
    several: Callable[[list[np.ndarray]], list],
    one: Callable[..., Any],
    *,
    reach: int,
    longest: float,
    batch_seconds: float,
    what: str,
) -> Iterator[list[Result]]:
    """The results of some rows, batch by batch, in the order of `indices`, under a progress bar named `what`.

    several: computes waves, those of about `batch_seconds` at a time. one: computes a clip of more than `longest` seconds, called
    as one(path, start=..., duration=...). reach: samples of the shortest clip that a model can take.
    """
    waiting: list[Result] = []
    total = 0.0
    with Bar(rows, indices, what) as bar:
        for result in read_ahead(rows, indices, longest, reach):
            long = result.value is None
            new_share = bool(waiting) and result.index // SHARE != waiting[-1].index // SHARE
            if waiting and (new_share or long or total + result.row.duration > batch_seconds):
                yield bar.passed(computed(waiting, several))
                waiting, total = [], 0.0
            if long:
                yield bar.passed([alone(rows[result.index], result, one)])
            else:
                waiting.append(result)
                total += result.row.duration if isinstance(result.value, np.ndarray) else 0.0
        if waiting:
            yield bar.passed(computed(waiting, several))


def read_ahead(rows: Manifest, indices: Iterable[int], longest: float, reach: int) -> Iterator[Result]:
    """The waves of some rows in order; None for one of more than `longest` seconds, the InputError of one that cannot be used."""
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


def read(index: int, row: Utterance, longest: float, reach: int) -> Result:
    """Decode a row, opening its file once: one that is too long gives itself away by more than `longest` seconds."""
    known = np.inf if np.isnan(row.duration) else row.duration
    try:
        wave_S = audio.load(row.path, start=row.start, duration=min(known, longest + 1))
        if len(wave_S) > longest * audio.SAMPLE_RATE:
            seconds = min(known, audio.info(row.path).duration - row.start)
            return Result(index, replace(row, duration=seconds), None)
        if len(wave_S) < reach:
            raise TooShort(f"{row.path} has {len(wave_S)} samples, which are less than one frame ({reach} samples)")
    except InputError as error:
        return Result(index, row, error)
    return Result(index, replace(row, duration=len(wave_S) / audio.SAMPLE_RATE), wave_S)


def computed(waiting: list[Result], several: Callable[[list[np.ndarray]], list]) -> list[Result]:
    """The waves among some results replaced by what `several` makes of them."""
    waves = [result.value for result in waiting if isinstance(result.value, np.ndarray)]
    values = iter(several(waves) if waves else ())
    return [r._replace(value=next(values)) if isinstance(r.value, np.ndarray) else r for r in waiting]


def alone(row: Utterance, result: Result, one: Callable[..., Any]) -> Result:
    """What `one` makes of a long clip."""
    try:
        duration = None if np.isnan(row.duration) else row.duration
        return result._replace(value=one(row.path, start=row.start, duration=duration))
    except InputError as error:
        return result._replace(value=error)


def reason(result: Result) -> str:
    """Why a result has no value, without the name of its file."""
    return str(result.value).removeprefix(result.row.path).strip()


class Bar(tqdm):
    """Progress in seconds of audio where all durations are known, in clips otherwise; one process shows it."""

    def __init__(self, rows: Manifest, indices: Sequence[int], what: str) -> None:
        self.seconds_R, self.heard = rows.durations, 0.0
        seconds = float(rows.durations[np.array(indices, dtype=np.int64)].sum())
        self.timed = not np.isnan(seconds)
        total, unit = (
            (seconds * (1 + 1e-9), "s audio") if self.timed else (len(indices), "clip")
        )  # rounding: not over 100 %
        quiet = len(rows) == 1 or dist.rank() > 0
        super().__init__(desc=what, total=total, unit=unit, unit_scale=self.timed, disable=quiet)

    def passed(self, batch: list[Result]) -> list[Result]:
        """The batch itself, counted."""
        self.heard += sum(result.row.duration for result in batch if not isinstance(result.value, InputError))
        self.update(sum(float(self.seconds_R[result.index]) if self.timed else 1 for result in batch))
        if not (self.timed or self.disable):
            self.set_postfix_str(f"{self.heard / max(self.format_dict['elapsed'], 1e-9):.0f} s audio/s", refresh=False)
        return batch
