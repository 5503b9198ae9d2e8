"""Training clips per second: a BYOL-S update of speechssl beside an eager re-creation of the public training step.

    python recipes/byols/throughput.py CLIPS.tsv [--batch 64] [--updates 8] [--workers 1]

The public step (byol-a, SERAB): per clip, in a worker process of the data loader, log-mel, mix-up with that worker's bank, random
resize crop by interpolation, twice; then float32 forward passes of online and target network, AdamW, moving average by a Python
loop. Both have the same network, batch, clips, optimiser, workers (one thread each) and threads of the main process (one);
speechssl reads and packs in its worker and makes the views on the whole batch.
"""

import argparse
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from speechssl.core.progress import Progress
from speechssl.data.loader import Item
from speechssl.data.manifest import read_manifest
from speechssl.models.byols.model import ByolsConfig, ByolsModel
from speechssl.objectives.byol import Byol, Recipe, regression
from speechssl.sound import audio
from speechssl.sound.features import LogMel

SAMPLES, FRAMES = 15_200, 96
RNG = np.random.default_rng(1)


def items(rows, epoch: int) -> list[Item]:
    """The first crop of each row."""
    return [Item(wave_S=audio.load(row.path, start=row.start, duration=0.95), id=row.id, epoch=epoch) for row in rows]


def public_view(x_FT: torch.Tensor, bank: list[torch.Tensor]) -> torch.Tensor:
    """Mix-up and random resize crop of one clip, by the method of the public transforms."""
    if bank:
        share, other_FT = 0.4 * RNG.random(), random.choice(bank)
        mixed_FT = ((1 - share) * x_FT.exp() + share * other_FT.exp() + 1.2e-7).log()
    else:
        mixed_FT = x_FT
    bank.append(x_FT)
    del bank[:-2048]
    canvas_FT = torch.zeros(64, 144)
    canvas_FT[:, 24:120] = mixed_FT
    h, w = (int(np.clip(int(RNG.uniform(0.6, 1.5) * n), 1, m)) for n, m in ((64, 64), (96, 144)))
    i, j = random.randint(0, 64 - h), random.randint(0, 144 - w)
    crop = canvas_FT[i : i + h, j : j + w][None, None]
    return F.interpolate(crop, size=(64, FRAMES), mode="bicubic", align_corners=True)[0, 0]


class PublicClips(Dataset):
    """An item: two views of one clip. Each worker has a bank of its own, as in the public code."""

    def __init__(self, rows) -> None:
        self.rows, self.mel, self.bank = rows, LogMel("byol-s"), []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        (item,) = items([self.rows[index]], 0)
        x_FT = (self.mel(torch.from_numpy(np.resize(item.wave_S, SAMPLES))[None])[0] + 5) / 3
        return public_view(x_FT, self.bank), public_view(x_FT, self.bank)


class OurBatches(Dataset):
    """An item: the clips of a whole update, read and packed."""

    def __init__(self, rows, learner: Byol, batch: int) -> None:
        self.rows, self.learner, self.batch = rows, learner, batch

    def __len__(self) -> int:
        return len(self.rows) // self.batch

    def __getitem__(self, index: int):
        return self.learner.collate(items(self.rows[index * self.batch :][: self.batch], index))


def one_thread(_worker: int) -> None:
    """Initialise a worker of either loader."""
    torch.set_num_threads(1)


def public(learner: Byol, optimizer, rows, batch: int, **loading) -> Iterator[None]:
    """Updates of the re-created public training step."""
    learner.model.encoder.to(memory_format=torch.contiguous_format)
    for pair in DataLoader(PublicClips(rows), batch_size=batch, **loading):
        both = torch.cat(pair)
        views = ((both - both.mean()) / both.std()).chunk(2)
        predicted = [learner.predictor(learner.projector(learner.model(view_BFT))) for view_BFT in views]
        with torch.no_grad():
            wanted = [learner.target[1](learner.model.embedding(learner.target[0](view_BFT))) for view_BFT in views]
        loss = (regression(predicted[0], wanted[1]) + regression(predicted[1], wanted[0])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        networks = torch.nn.ModuleList([learner.model.encoder, learner.projector])
        for slow, fast in zip(learner.target.parameters(), networks.parameters(), strict=True):
            slow.data = slow.data * 0.99 + 0.01 * fast.data
        yield


def ours(learner: Byol, optimizer, rows, batch: int, bf16: bool, **loading) -> Iterator[None]:
    """Updates of speechssl."""
    for update in DataLoader(OurBatches(rows, learner, batch), batch_size=None, **loading):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            shared = learner.before_update(0, [update])
            step = learner(update, shared)
        (step.loss / update.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.after_update(0, shared)
        yield


def speed(updates: Iterator[None], batch: int) -> float:
    """Clips per second of wall-clock time after a first update, which starts the workers and warms up."""
    next(updates)
    began = time.perf_counter()
    return batch * sum(1 for _ in updates) / (time.perf_counter() - began)


def main() -> None:
    """Time each in turns, and print clips per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in read_manifest(args.manifest) if row.duration > 1]
    rows = [rows[i % len(rows)] for i in range(args.batch * (args.updates + 1))]
    loading = {"num_workers": args.workers, "worker_init_fn": one_thread}
    found: dict[str, list[float]] = {
        "public step, float32": [],
        "speechssl, float32": [],
        "speechssl, bf16 autocast": [],
    }
    with Progress(args.rounds * len(found), "turn") as bar:
        for name in list(found) * args.rounds:
            torch.manual_seed(1)
            learner = Byol(Recipe(), ByolsModel(ByolsConfig())).train()
            optimizer = torch.optim.AdamW(learner.parameters(), 3e-4, fused="speechssl" in name)
            step = public if "public" in name else partial(ours, bf16="bf16" in name)
            found[name].append(speed(step(learner, optimizer, rows, args.batch, **loading), args.batch))
            bar.update()
    for name, speeds in found.items():
        print(f"{name:28s} {np.median(speeds):7.1f} clips per second ({min(speeds):.1f} ... {max(speeds):.1f})")


if __name__ == "__main__":
    main()
