"""From manifest rows to micro-batches, in worker processes that read only the segment needed."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.sampler import MicroBatch, Position, Updates
from speechssl.sound import audio

SLACK = 0.05  # seconds that a file may lack of what its manifest says: rounding, and padding of lossy formats


class Micro(Dataset):
    """MicroBatch -> what `collate` makes of its items. A user's error is returned, not raised: worker processes would
    bury it in a traceback."""

    def __init__(self, manifest: Manifest, make: Callable, collate: Callable, crop_seconds: float, seed: int) -> None:
        self.manifest, self.make, self.collate = manifest, make, collate
        self.crop_seconds, self.seed = crop_seconds, seed

    def __getitem__(self, micro: MicroBatch) -> Any:
        try:
            return self.collate([self.item(self.manifest[row], micro.epoch) for row in micro.rows])
        except InputError as error:
            return error

    def batch(self, micro: MicroBatch) -> Any:
        """The same in this process: a user's error is raised."""
        return checked(self[micro])

    def item(self, utterance: Utterance, epoch: int) -> Any:
        """Read an utterance, or a random crop of it that is a function of (seed, epoch, utterance)."""
        start, duration = utterance.start, utterance.duration
        if 0 < self.crop_seconds < duration:
            rng = np.random.default_rng(noise_key("crop", self.seed, epoch, utterance.id))
            start += float(rng.uniform(0, duration - self.crop_seconds))
            duration = self.crop_seconds
        wave_S = audio.load(utterance.path, start=start, duration=duration)
        if len(wave_S) < (duration - SLACK) * audio.SAMPLE_RATE:
            raise InputError(
                f"{utterance.path} holds {len(wave_S) / audio.SAMPLE_RATE:.2f} s after {start:.2f} s but the manifest says "
                f"{duration:.2f} s; it has changed, run `speechssl prepare` again"
            )
        return self.make(wave_S=wave_S, id=utterance.id, epoch=epoch, text=utterance.text, speaker=utterance.speaker)


def checked(batch: Any) -> Any:
    """A batch as it is; the InputError that stands for one is raised."""
    if isinstance(batch, InputError):
        raise batch
    return batch


def ignore_signals(_worker: int) -> None:
    """Ctrl-C and SIGTERM may reach the whole process group; the trainer decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def stream(dataset: Micro, micros: Iterable[MicroBatch], workers: int) -> Iterator[Any]:
    """Micro-batches in order, prepared ahead by `workers` processes (0: in this one, as where processes cannot be forked:
    others would need a copy of everything)."""
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
    yield from map(checked, loader)


class TrainLoader:
    """Updates from a position on: each a (next position, micro-batches of this rank)."""

    def __init__(self, dataset: Micro, updates: Updates, workers: int) -> None:
        self.dataset, self.updates, self.workers = dataset, updates, workers

    def since(self, position: Position) -> Iterator[tuple[Position, list[Any]]]:
        """The micro-batches of one update after the other; the loader works ahead of the consumer."""
        micros = (micro for _, own in self.updates.since(position) for micro in own)
        batches = stream(self.dataset, micros, self.workers)
        for after, own in self.updates.since(position):
            yield after, [next(batches) for _ in own]


def valid_micros(seconds_R: np.ndarray, micro_seconds: float) -> list[MicroBatch]:
    """Every row once, in order, as micro-batches of at most `micro_seconds`."""
    seconds = seconds_R.tolist()
    micros, rows, total = [], [], 0.0
    for row in range(len(seconds)):
        if rows and total + seconds[row] > micro_seconds:
            micros.append(MicroBatch(rows=tuple(rows), epoch=0))
            rows, total = [], 0.0
        rows.append(row)
        total += seconds[row]
    return [*micros, MicroBatch(rows=tuple(rows), epoch=0)]
