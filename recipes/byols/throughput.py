"""Training clips per second: this package's BYOL-S update beside an eager re-creation of the public training step.

    python recipes/byols/throughput.py CLIPS.tsv [--batch 64] [--updates 5]

The public step (byol-a, SERAB, commits in README.md): per clip and in the data loader, log-mel, mix-up with a bank, random
resize crop by interpolation, twice; then float32 forward passes of online and target network, AdamW, moving average by a Python
loop. Same network, batch, clips, threads and optimiser for both; both load their audio in this process.
"""

import argparse
import random
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from speechssl import audio
from speechssl.data.manifest import read_manifest
from speechssl.features import LogMel
from speechssl.models.byols import ByolsConfig, ByolsModel
from speechssl.objectives.byol import ByolObjective, ByolObjectiveConfig, regression
from speechssl.objectives.protocol import Item

SAMPLES, FRAMES = 15_200, 96
RNG = np.random.default_rng(1)


def items(rows, epoch: int) -> list[Item]:
    """One crop of each row."""
    return [Item(wave_S=audio.load(row.path, start=row.start, duration=0.95), id=row.id, epoch=epoch) for row in rows]


def public_view(x_FT: torch.Tensor, bank: list[torch.Tensor]) -> torch.Tensor:
    """Mix-up and random resize crop of one clip, as the public transforms do them."""
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


def public(learner: ByolObjective, optimizer, rows, updates: int) -> float:
    """Clips per second of the re-created public step."""
    mel, bank = LogMel("byol-s"), []
    learner.model.encoder.to(memory_format=torch.contiguous_format)
    online = [learner.model, learner.projector]
    began = time.process_time()
    for update in range(updates):
        pairs = []
        for item in items(rows, update):
            x_FT = (mel(torch.from_numpy(np.resize(item.wave_S, SAMPLES))[None])[0] + 5) / 3
            pairs.append((public_view(x_FT, bank), public_view(x_FT, bank)))
        both = torch.cat([torch.stack(views) for views in zip(*pairs, strict=True)])
        views = ((both - both.mean()) / both.std()).chunk(2)
        predicted = [learner.predictor(online[1](online[0](view_BFT))) for view_BFT in views]
        with torch.no_grad():
            wanted = [learner.target[1](learner.model.pool(learner.target[0](view_BFT))) for view_BFT in views]
        loss = (regression(predicted[0], wanted[1]) + regression(predicted[1], wanted[0])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        networks = torch.nn.ModuleList([learner.model.encoder, learner.projector])
        for slow, fast in zip(learner.target.parameters(), networks.parameters(), strict=True):
            slow.data = slow.data * 0.99 + 0.01 * fast.data
    return updates * len(rows) / (time.process_time() - began)


def ours(learner: ByolObjective, optimizer, rows, updates: int, bf16: bool) -> float:
    """Clips per second of this package's update."""
    began = time.process_time()
    for update in range(updates):
        batch = learner.collate(items(rows, update))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            step = learner(batch)
        (step.loss / batch.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.after_step()
    return updates * len(rows) / (time.process_time() - began)


def main() -> None:
    """Print clips per second of CPU time, one thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--updates", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in read_manifest(args.manifest) if row.duration > 1][: args.batch]
    for name in ("public step, float32", "speechssl, float32", "speechssl, bf16 autocast"):
        torch.manual_seed(1)
        model = ByolsModel(ByolsConfig())
        learner = ByolObjective(model, ByolObjectiveConfig(), 1, SAMPLES).train()
        optimizer = torch.optim.AdamW(learner.parameters(), 3e-4, fused="speechssl" in name)
        step = public if "public" in name else partial(ours, bf16="bf16" in name)
        step(learner, optimizer, rows, 1)
        print(
            f"{name:28s} {step(learner, optimizer, rows, args.updates):7.1f} clips per second of CPU time", flush=True
        )


if __name__ == "__main__":
    main()
