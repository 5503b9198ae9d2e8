"""From manifest rows to micro-batches, in worker processes that decode only the segment needed."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.sampler import MicroBatch, Position, Updates
from speechssl.sound import audio

SLACK = 0.05  # seconds that a file may be shorter than its manifest says: rounding, and padding of lossy formats


@dataclass(frozen=True, kw_only=True)
class Item:
    """One training example.

    wave_S: float32 mono 16 kHz. id: the utterance. epoch: how many passes over the corpus came before. start: where the
    wave starts in the utterance, in samples. speed: how many times as fast it is played. labels: what the objective gave for the
    utterance or for all its frames. text, speaker: as in the manifest.
    """

    wave_S: np.ndarray
    id: str
    epoch: int
    start: int = 0
    speed: float = 1.0
    labels: np.ndarray | None = None
    text: str = ""
    speaker: str = ""

    def frame_labels(self, hop: int, frames: int) -> np.ndarray:
        """The labels of the wave's own frames (T, ...), when those in `labels` lie `hop` samples apart; each belongs to a frame
        whose centre is at most half a hop away."""
        assert self.labels is not None
        numbers = np.floor(self.start / hop + np.arange(frames) * self.speed + 0.5).astype(np.int64)
        return self.labels[np.minimum(numbers, len(self.labels) - 1)]


class Collator(Protocol):
    """What the loader needs of an objective."""

    def labels(self, utterance: Utterance) -> np.ndarray | None:
        """Labels of the whole utterance, or of all its frames."""
        ...

    def collate(self, items: Sequence[Item]) -> Any:
        """Items to a micro-batch."""
        ...


class MicroBatches(Dataset):
    """MicroBatch -> what `collate` makes of its items. An InputError is returned, not raised: a worker process would bury it
    in a traceback."""

    def __init__(
        self, manifest: Manifest, collator: Collator, crop_seconds: float, seed: int, speed_change: float = 0.0
    ) -> None:
        """crop_seconds: longer utterances are cut to a random crop of this length (0: never). speed_change: each is played
        faster or slower, by a factor of up to 1 ± this."""
        self.manifest, self.collator = manifest, collator
        self.crop_seconds, self.seed, self.speed_change = crop_seconds, seed, speed_change

    @property
    def seconds_R(self) -> np.ndarray:
        """What each row contributes once cropped, in seconds."""
        return np.minimum(self.manifest.durations, self.crop_seconds or np.inf)

    def __getitem__(self, micro: MicroBatch) -> Any:
        try:
            return self.collator.collate([self.item(self.manifest[row], micro.epoch) for row in micro.rows])
        except InputError as error:
            return error

    def batch(self, micro: MicroBatch) -> Any:
        """Load a micro-batch in this process; an InputError is raised."""
        return raised(self[micro])

    def item(self, utterance: Utterance, epoch: int) -> Item:
        """Read an utterance, or a random crop of it, at a random speed: functions of (seed, epoch, utterance)."""
        offset, duration = 0.0, utterance.duration
        if 0 < self.crop_seconds < duration:
            rng = np.random.default_rng(noise_key("crop", self.seed, epoch, utterance.id))
            offset = float(rng.uniform(0, duration - self.crop_seconds))
            duration = self.crop_seconds
        start = utterance.start + offset
        wave_S = audio.load(utterance.path, start=start, duration=duration, channel=utterance.channel)
        if len(wave_S) < (duration - SLACK) * audio.SAMPLE_RATE:
            raise InputError(
                f"{utterance.path} holds {len(wave_S) / audio.SAMPLE_RATE:.2f} s after {start:.2f} s but the manifest says "
                f"{duration:.2f} s; it has changed, run `speechssl prepare` again"
            )
        speed, change = 1.0, self.speed_change
        if change:
            rng = np.random.default_rng(noise_key("speed", self.seed, epoch, utterance.id))
            speed = float(rng.uniform(1 - change, 1 + change))
        return Item(
            wave_S=audio.played(wave_S, speed),
            id=utterance.id,
            epoch=epoch,
            start=round(offset * audio.SAMPLE_RATE),
            speed=speed,
            labels=self.collator.labels(utterance),
            text=utterance.text,
            speaker=utterance.speaker,
        )


def raised(batch: Any) -> Any:
    """The batch, unless it is an InputError, which is raised."""
    if isinstance(batch, InputError):
        raise batch
    return batch


def ignore_signals(_worker: int) -> None:
    """Ctrl-C and SIGTERM may reach the whole process group; the trainer decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def load_ahead(dataset: MicroBatches, micros: Iterable[MicroBatch], workers: int) -> Iterator[Any]:
    """Micro-batches in order, loaded ahead by `workers` processes. 0: in this process, as where processes cannot be forked,
    since others would need a copy of everything."""
    workers = workers if "fork" in multiprocessing.get_all_start_methods() else 0
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=micros,  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
    )
    yield from map(raised, loader)


def load_updates(
    dataset: MicroBatches, updates: Updates, position: Position, workers: int
) -> Iterator[tuple[Position, list[Any]]]:
    """The updates from `position` on, each as (next position, this rank's micro-batches); the workers load ahead."""
    to_load, to_yield = tee(updates.since(position))
    batches = load_ahead(dataset, (micro for _, own in to_load for micro in own), workers)
    for after, own in to_yield:
        yield after, [next(batches) for _ in own]


def once_over(
    dataset: MicroBatches, micro_seconds: float, rank: int, world: int, workers: int
) -> Callable[[], Iterator]:
    """A function that goes once through this rank's share of a validation set, in micro-batches of at most
    `micro_seconds`. With fewer micro-batches than ranks, every rank takes all."""
    micros = in_order(dataset.seconds_R, micro_seconds)
    own = micros[rank::world] if len(micros) >= world else micros
    return lambda: load_ahead(dataset, own, workers)


def in_order(seconds_R: np.ndarray, micro_seconds: float) -> list[MicroBatch]:
    """Every row once, in order, as micro-batches of at most `micro_seconds`."""
    micros, rows, total = [], [], 0.0
    for row, seconds in enumerate(seconds_R.tolist()):
        if rows and total + seconds > micro_seconds:
            micros.append(MicroBatch(rows=tuple(rows), epoch=0))
            rows, total = [], 0.0
        rows.append(row)
        total += seconds
    return [*micros, MicroBatch(rows=tuple(rows), epoch=0)]
