"""Which utterances make up which update: a pure function of (seed, epoch), whatever the number of processes.

An update is a global batch, stated in seconds of audio. It is cut into micro-batches that fit a device, and those are
dealt to the ranks; the cut changes no result, so 1 process with 8 micro-batches, 8 processes, or a resumed run on other
hardware see the same updates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from speechssl.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where training stands in the data: the next update is batch `index` of pass `epoch`."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows of the manifest that one forward pass takes, and the pass over the corpus that they belong to."""

    rows: tuple[int, ...]
    epoch: int


def epoch_batches(seconds_R: np.ndarray, batch_seconds: float, seed: int, epoch: int) -> list[np.ndarray]:
    """A shuffled corpus cut into batches of nearly `batch_seconds` each; every row occurs exactly once.

    seconds_R: what each row contributes (its duration, or the crop length if that is shorter).
    """
    order_R = np.random.default_rng((seed, epoch)).permutation(len(seconds_R))
    ends_R = np.cumsum(seconds_R[order_R])
    batches = min(len(order_R), max(1, round(float(ends_R[-1]) / batch_seconds)))
    middles_R = ends_R - seconds_R[order_R] / 2
    index_R = np.minimum((middles_R / ends_R[-1] * batches).astype(np.int64), batches - 1)
    pieces = np.split(order_R, np.flatnonzero(np.diff(index_R)) + 1)
    return [piece for piece in pieces if len(piece)]


def micro_batches(rows: np.ndarray, seconds_R: np.ndarray, micro_seconds: float, world: int) -> list[np.ndarray]:
    """Cut one global batch into a multiple of `world` micro-batches of about equal length, none over `micro_seconds`
    unless a single row is longer. Longest row first, each to the shortest micro-batch."""
    seconds = seconds_R[rows]
    count = world * int(np.ceil(max(1.0, float(seconds.sum()) / micro_seconds / world)))
    while True:
        count = min(count, len(rows) // world * world)
        bins: list[list[int]] = [[] for _ in range(count)]
        loads = np.zeros(count)
        for row in sorted(rows.tolist(), key=lambda row: (-seconds_R[row], row)):
            target = int(loads.argmin())
            bins[target].append(row)
            loads[target] += seconds_R[row]
        if loads.max() <= micro_seconds or count >= len(rows) // world * world:
            return [np.array(piece) for piece in bins]
        count += world


@dataclass(frozen=True, kw_only=True)
class Updates:
    """The endless sequence of updates from a position on: yields (next position, this rank's micro-batches)."""

    seconds_R: np.ndarray
    batch_seconds: float
    micro_seconds: float
    seed: int
    rank: int = 0
    world: int = 1

    def first(self) -> MicroBatch:
        """The first micro-batch that a single process would take: the same on every rank."""
        return next(replace(self, rank=0, world=1).since(Position()))[1][0]

    def check(self, steps: int) -> None:
        """InputError if any of the first `steps` updates has fewer rows than there are processes to share it."""
        longest, total = float(self.seconds_R.max()), float(self.seconds_R.sum())
        if self.world == 1 or min(self.batch_seconds, total) / 2 > (self.world + 1) * longest:
            return  # an update holds more than half of batch_seconds, and its middle row marks belong to whole rows
        done = 0
        for epoch in count():
            batches = epoch_batches(self.seconds_R, self.batch_seconds, self.seed, epoch)
            least = min(map(len, batches[: steps - done]))
            if least < self.world:
                raise InputError(
                    f"pass {epoch + 1} over the data has an update of {least} utterances, which {self.world} processes cannot "
                    f"share; raise data.batch_seconds = {self.batch_seconds:g} or start fewer processes"
                )
            done += len(batches)
            if done >= steps:
                return

    def since(self, position: Position) -> Iterator[tuple[Position, list[MicroBatch]]]:
        """Updates from `position` on; nothing before it is visited."""
        epoch, index = position.epoch, position.index
        while True:
            batches = epoch_batches(self.seconds_R, self.batch_seconds, self.seed, epoch)
            for done in range(index, len(batches)):
                pieces = micro_batches(batches[done], self.seconds_R, self.micro_seconds, self.world)
                last = done + 1 == len(batches)
                after = Position(epoch=epoch + last, index=0 if last else done + 1)
                own = pieces[self.rank :: self.world]
                yield after, [MicroBatch(rows=tuple(piece.tolist()), epoch=epoch) for piece in own]
            epoch, index = epoch + 1, 0
