"""Clips to vectors: layers, pooling, and one Parquet file with a row per clip."""

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_file
from speechssl.data.channels import with_channel
from speechssl.data.manifest import Manifest, escape, rejected_path
from speechssl.data.prepare import stamp
from speechssl.data.sources import rows_of
from speechssl.sound.windows import windows
from speechssl.use.parts import Parts
from speechssl.use.pooling import check_pool, choose_layers, keeps_layers, pooled
from speechssl.use.stream import BATCH, own_rows, stream_clips

LONGEST = 60.0  # seconds embedded at once; attention needs memory that grows with the square


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What `embed_to_parquet` wrote. rejected: (path, reason)."""

    out: Path
    rows: int
    width: int
    layer: str
    speed: float
    rejected: list[tuple[str, str]]

    def __str__(self) -> str:
        layer = "all layers" if keeps_layers(self.layer) else f"layer {self.layer}"
        speed = f"{self.speed:.0f} s of audio per second"
        lines = [f"{self.out}: {self.rows} rows of {self.width} numbers, {layer}, {speed}"]
        lines += [f"  left out: {escape(path)}: {reason}" for path, reason in self.rejected[:10]]
        if len(self.rejected) > 10:
            lines.append(f"  and {len(self.rejected) - 10} more, all listed in {rejected_path(self.out)}")
        return "\n".join(lines)


def embed_clip(
    model: Any, source: Any, *, layer: int | str = "best", pool: str = "model", **segment: Any
) -> np.ndarray:
    """One clip of any length -> (D,) or (2 D,); (T, D) for pool="none"; with a leading axis of layers for layer="all".

    segment: start, duration, sample_rate and channel as in audio.load. A long clip is read in windows, whose frames are pooled
    together; its memory grows with pool="none" only.
    """
    check_pool(pool)
    chosen = choose_layers(layer, model)
    total, largest, count, frames = np.zeros(()), np.full((), -np.inf, np.float32), 0, []
    for wave_S, rows, *_ in windows(source, model.config.geometry, window=LONGEST, **segment):
        states_LTD = model.hidden_states([wave_S], chosen)[0][:, rows].numpy()
        if not states_LTD.shape[1]:  # a last window of less than one frame beyond its context
            continue
        count += states_LTD.shape[1]
        if pool == "none":
            frames.append(states_LTD)
            continue
        total = total + states_LTD.sum(axis=1)
        largest = np.maximum(largest, states_LTD.max(axis=1))
    if not count:
        raise InputError(
            f"a clip of less than one frame ({model.config.geometry.receptive_field} samples) has no embedding"
        )
    if pool == "none":
        values = np.concatenate(frames, axis=1) if len(frames) > 1 else frames[0]
    else:
        values = pooled(model, (total / count).astype(np.float32), largest, pool)
    return values if keeps_layers(layer) else values[0]


def embed_waves(model: Any, waves: Sequence[np.ndarray], *, layer: int | str, pool: str) -> list[np.ndarray]:
    """Several clips in one packed batch; each result equals that of the clip on its own."""
    results = []
    for states_LTD in model.hidden_states(waves, choose_layers(layer, model)):
        mean_LD, largest_LD = states_LTD.mean(dim=1).numpy(), states_LTD.amax(dim=1).numpy()
        values = states_LTD.numpy() if pool == "none" else pooled(model, mean_LD, largest_LD, pool)
        results.append(values if keeps_layers(layer) else values[0])
    return results


def default_out(sources: Sequence[Path]) -> Path:
    """clip.wav -> clip.parquet, in the working folder. InputError if that exists: replacing it needs --out."""
    first = Path(os.path.abspath(sources[0]))
    out = Path(f"{first.name if first.is_dir() else first.stem}.parquet")
    if out.exists():
        raise InputError(f"{out} exists; name the file to write with --out ({out} too: it is then replaced)")
    return out


def embed_to_parquet(
    model: Any,
    sources: Sequence[Path],
    out: Path,
    *,
    layer: int | str = "best",
    pool: str = "model",
    where: str | Sequence[str] = "",
    channel: str = "mix",
    batch_seconds: float | None = None,
) -> Embedded | None:
    """Embed every clip of `sources` into the Parquet file `out`: id, path, speaker, label, text, split, duration, vector.

    layer "all" (or "weighted": the probe then learns how to mix them) writes one column per layer, vector_00 ...; pool
    "none" writes every frame, row after row in one list with `frames` rows. The metadata of the file
    name model, layer, pool. channel: "each" makes a row of each channel.
    Finished rows wait in a folder beside `out`: after a kill, the same call computes the rest. Under torchrun the processes
    share the rows; rank 0 writes the file, the others return None.
    """
    out = output_file(out, "e.parquet")
    rows, began = with_channel(rows_of(sources, where), channel), time.perf_counter()
    check_pool(pool)
    chosen = choose_layers(layer, model)
    meta = {"model": str(model.source), "layer": str(layer) if keeps_layers(layer) else str(chosen[0]), "pool": pool}
    key = key_of(model, rows, meta)
    with dist.sharing():
        parts = Parts(out, meta, key)
        if dist.rank() == 0:
            parts.remove_damaged()
        dist.barrier()
        finished = parts.finished()
        dist.barrier()  # new parts appear from here on
        if finished and dist.rank() == 0:
            done = sum(stop - first for first, stop in finished)
            print(f"{out}: {done} of {len(rows)} clips are already done; computing the rest", file=sys.stderr)
        for batch in stream_clips(
            rows,
            own_rows(len(rows), dist.rank(), dist.world(), finished),
            partial(embed_waves, model, layer=layer, pool=pool),
            partial(embed_clip, model, layer=layer, pool=pool),
            reach=model.config.geometry.receptive_field,
            longest=LONGEST,
            batch_seconds=batch_seconds or BATCH[model.device.type],
            what="embed",
        ):
            parts.add(batch)
        parts.write()
        seconds = dist.all_sum_float(parts.seconds)  # waits for the other processes
        if dist.rank() > 0:
            return None
    count, width, rejected = parts.merge()
    speed = seconds / (time.perf_counter() - began)
    return Embedded(out=out, rows=count, width=width, layer=meta["layer"], speed=speed, rejected=rejected)


def key_of(model: Any, rows: Manifest, meta: dict[str, str]) -> str:
    """A hash of all that the vectors depend on: model, options, rows, and the size and time of each audio file."""
    key = hashlib.blake2b("\n".join([*meta.values(), model.fingerprint(), rows.digest()]).encode(), digest_size=8)
    for path in dict.fromkeys(rows.cells("path")):
        key.update(repr(stamp(path)).encode())
    return key.hexdigest()
