"""Clips to vectors: layers, pooling, and one Parquet file with a row per clip."""

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_file
from speechssl.data.corpora import find_rows
from speechssl.data.manifest import Manifest, Utterance, escape, rejected_path
from speechssl.sound import audio
from speechssl.sound.windows import windows
from speechssl.use.parts import Parts
from speechssl.use.stream import BATCH, own_rows, stream_clips

POOLS = ("model", "mean", "mean+max", "none")
LONGEST = 60.0  # seconds embedded at once; attention needs memory that grows with the square


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What `embed_to_parquet` wrote. rejected: (path, reason)."""

    out: Path
    rows: int
    width: int
    speed: float
    rejected: list[tuple[str, str]]

    def __str__(self) -> str:
        lines = [f"{self.out}: {self.rows} rows of {self.width} numbers, {self.speed:.0f} s of audio per second"]
        lines += [f"  left out: {escape(path)}: {reason}" for path, reason in self.rejected[:10]]
        if len(self.rejected) > 10:
            lines.append(f"  and {len(self.rejected) - 10} more, all listed in {rejected_path(self.out)}")
        return "\n".join(lines)


def choose_layers(layer: int | str, count: int) -> list[int]:
    """Indices into the `count` hidden states that `layer` means: "last", a number, "all" or "weighted"."""
    if layer == "last":
        return [count - 1]
    if layer in ("all", "weighted"):
        return list(range(count))
    try:
        index = int(layer)
    except ValueError:
        raise InputError(f"layer = {layer!r} is not known; use last, all, weighted or 0 ... {count - 1}") from None
    if not -count <= index < count:
        raise InputError(f"layer = {index} does not exist; the model has 0 (input of the first layer) ... {count - 1}")
    return [index % count]


def check_pool(pool: str) -> None:
    """InputError for an unknown way of pooling."""
    if pool not in POOLS:
        raise InputError(f"pool = {pool!r} is not known; use one of {', '.join(POOLS)}")


def pooled(model: Any, mean_LD: np.ndarray, largest_LD: np.ndarray, pool: str) -> np.ndarray:
    """Mean and maximum over time -> (L, D) for mean and model (as the model's authors do it), (L, 2 D) for mean+max."""
    if pool == "mean+max":
        return np.concatenate([mean_LD, largest_LD], axis=1)
    return model.model.pool(mean_LD, largest_LD) if pool == "model" else mean_LD


def embed_clip(
    model: Any, source: Any, *, layer: int | str = "last", pool: str = "model", **segment: Any
) -> np.ndarray:
    """One clip of any length -> (D,) or (2 D,); (T, D) for pool="none"; with a leading axis of layers for layer="all".

    segment: start, duration and sample_rate as in audio.load. A long clip is read in windows, whose frames are pooled
    together, so that memory does not grow with it.
    """
    check_pool(pool)
    chosen = choose_layers(layer, model.model.layers)
    total, largest, count, parts = np.zeros(()), np.full((), -np.inf, np.float32), 0, []
    for wave_S, rows in windows(source, model.config.geometry, window=LONGEST, **segment):
        states_LTD = model.hidden_states([wave_S], chosen)[0][:, rows].numpy()
        if not states_LTD.shape[1]:  # a last window of less than one frame beyond its context
            continue
        total, count = total + states_LTD.sum(axis=1), count + states_LTD.shape[1]
        largest = np.maximum(largest, states_LTD.max(axis=1))
        parts += [states_LTD] if pool == "none" else []
    if not count:
        raise InputError(
            f"a clip of less than one frame ({model.config.geometry.receptive_field} samples) has no embedding"
        )
    mean_LD = (total / count).astype(np.float32)
    values = np.concatenate(parts, axis=1) if pool == "none" else pooled(model, mean_LD, largest, pool)
    return values if layer in ("all", "weighted") else values[0]


def embed_waves(model: Any, waves: Sequence[np.ndarray], *, layer: int | str, pool: str) -> list[np.ndarray]:
    """Several clips in one packed batch; each result is what the clip alone would give."""
    results = []
    for states_LTD in model.hidden_states(waves, choose_layers(layer, model.model.layers)):
        mean_LD, largest_LD = states_LTD.mean(dim=1).numpy(), states_LTD.amax(dim=1).numpy()
        values = states_LTD.numpy() if pool == "none" else pooled(model, mean_LD, largest_LD, pool)
        results.append(values if layer in ("all", "weighted") else values[0])
    return results


def rows_of(sources: Sequence[Path], where: str = "") -> Manifest:
    """Utterances of a manifest, a folder (known corpora included) or audio files."""

    def found() -> Iterator[Utterance]:
        for source in map(Path, sources):
            if source.suffix.lower() in (*audio.EXTENSIONS, *audio.FOREIGN) and not source.is_dir():
                yield Utterance(id=str(source), path=str(source))
            else:
                yield from find_rows(source)[0]

    return Manifest.of(found()).where(where)


def default_out(sources: Sequence[Path]) -> Path:
    """clip.wav -> clip.parquet, in the working folder. InputError if that exists: whoever wants it replaced says so."""
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
    layer: int | str = "last",
    pool: str = "model",
    where: str = "",
    batch_seconds: float | None = None,
) -> Embedded | None:
    """Embed every clip of `sources` into the Parquet file `out`: id, path, speaker, label, text, split, duration, vector.

    layer "all" (or "weighted": the probe then learns how to mix them) writes one column per layer, vector_00 ...; pool
    "none" writes every frame, row after row in one list with `frames` rows. The file's metadata names model, layer, pool.
    Finished rows wait in a folder beside `out`: the same call after a kill computes the rest. Under torchrun every process takes
    its share; the first one makes the file, the others return None.
    """
    out = output_file(out, "e.parquet")
    rows, began = rows_of(sources, where), time.perf_counter()
    check_pool(pool)
    choose_layers(layer, model.model.layers)
    meta = {"model": str(model.source), "layer": str(layer), "pool": pool}
    key = hashlib.blake2b("\n".join([*meta.values(), model.fingerprint(), rows.digest()]).encode(), digest_size=8)
    with dist.sharing():
        parts = Parts(out, meta, key.hexdigest())
        finished = parts.finished()
        dist.barrier()  # from here on the others' parts appear
        if finished and dist.rank() == 0:
            done = sum(stop - first for first, stop in finished)
            print(f"{out}: {done} of {len(rows)} clips were done before it was stopped; now the rest", file=sys.stderr)
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
        seconds = dist.all_sum_float(parts.seconds)  # waits for the others
        if dist.rank() > 0:
            return None
    merged = parts.merge()
    return Embedded(**merged._asdict(), out=out, speed=seconds / (time.perf_counter() - began))
