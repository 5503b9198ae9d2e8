"""Clips to vectors: layers, pooling, and one Parquet file with a row per clip."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from speechssl import audio
from speechssl.data.corpora import CORPORA, detect
from speechssl.data.manifest import Manifest, Utterance, read_manifest
from speechssl.errors import InputError

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
        lines += [f"  left out: {path}: {reason}" for path, reason in self.rejected[:10]]
        if len(self.rejected) > 10:
            lines.append(f"  and {len(self.rejected) - 10} more, all listed in {rejected_file(self.out)}")
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


def pooled(model: Any, states_LTD: Tensor, pool: str) -> np.ndarray:
    """(L, T, D) -> (L, D) for model (its authors' way) and mean, (L, 2 D) for mean+max, (L, T, D) for none."""
    if pool not in POOLS:
        raise InputError(f"pool = {pool!r} is not known; use one of {', '.join(POOLS)}")
    if pool == "none":
        return states_LTD.numpy()
    if pool == "model":
        return model.pool(states_LTD).numpy()
    mean_LD = states_LTD.mean(dim=1).numpy()
    return mean_LD if pool == "mean" else np.concatenate([mean_LD, states_LTD.amax(dim=1).numpy()], axis=1)


def embed_array(model: Any, wave_S: np.ndarray, *, layer: int | str = "last", pool: str = "model") -> np.ndarray:
    """One clip at 16 kHz -> (D,) or (2 D,); (T, D) for pool="none"; with a leading axis of layers for layer="all"."""
    return embed_waves(model, [wave_S], layer=layer, pool=pool)[0]


def embed_waves(model: Any, waves: Sequence[np.ndarray], *, layer: int | str, pool: str) -> list[np.ndarray]:
    """Several clips in one packed batch; each result is what the clip alone would give."""
    results = []
    for states_LTD in model.hidden_states(waves):
        chosen = choose_layers(layer, len(states_LTD))
        values = pooled(model, states_LTD[chosen], pool)
        results.append(values if layer in ("all", "weighted") else values[0])
    return results


def rows_of(sources: Sequence[Path], where: str = "") -> Manifest:
    """Utterances of a manifest, a folder (known corpora included) or audio files."""
    rows: list[Utterance] = []
    for source in map(Path, sources):
        if source.is_dir() and not (source / "wav.scp").exists():
            rows += CORPORA[detect(source)][1](source)
        elif source.suffix.lower() in (*audio.EXTENSIONS, *audio.FOREIGN):
            rows.append(Utterance(id=str(source), path=str(source)))
        else:
            rows += read_manifest(source)
    if not rows:
        raise InputError(f"no audio found in {', '.join(map(str, sources))}")
    manifest = Manifest.of(rows)
    if not where:
        return manifest
    name, _, value = where.partition("=")
    return manifest.where(**{name: value})


def batches(manifest: Manifest, batch_seconds: float, reach: int, rejected: list) -> Iterator[tuple[list, list]]:
    """(utterances, waves) of about `batch_seconds`; what cannot be read or is under `reach` samples goes to `rejected`."""
    chosen, waves, total = [], [], 0.0
    for row in manifest:
        duration = None if np.isnan(row.duration) else row.duration
        try:
            wave_S = audio.load(row.path, start=row.start, duration=duration)
            if len(wave_S) < reach:
                raise InputError(f"{len(wave_S)} samples are less than one frame ({reach} samples)")
        except InputError as error:
            rejected.append((row.path, str(error)))
            continue
        seconds = len(wave_S) / audio.SAMPLE_RATE
        if chosen and total + seconds > batch_seconds:
            yield chosen, waves
            chosen, waves, total = [], [], 0.0
        chosen.append(replace(row, duration=seconds))
        waves.append(wave_S)
        total += seconds
    if chosen:
        yield chosen, waves


def embed_long(model: Any, wave_S: np.ndarray, layer: int | str, pool: str) -> np.ndarray:
    """A long clip in pieces of `LONGEST` seconds, whose frames are pooled together."""
    size = int(LONGEST * audio.SAMPLE_RATE)
    pieces = [wave_S[i : i + size] for i in range(0, len(wave_S), size)]
    pieces = [piece for piece in pieces if len(piece) >= model.config.geometry.receptive_field]
    states_LTD = torch.cat([model.hidden_states([piece])[0] for piece in pieces], dim=1)
    values = pooled(model, states_LTD[choose_layers(layer, len(states_LTD))], pool)
    return values if layer in ("all", "weighted") else values[0]


def embed_to_parquet(
    model: Any,
    sources: Sequence[Path],
    out: Path,
    *,
    layer: int | str = "last",
    pool: str = "model",
    where: str = "",
    batch_seconds: float = 30.0,
) -> Embedded:
    """Embed every clip of `sources` into the Parquet file `out`: id, path, speaker, label, text, split, duration, vector.

    layer "all" (or "weighted": the probe then learns how to mix them) writes one column per layer, vector_00 ...; pool
    "none" writes every frame, row after row in one list with `frames` rows. The file's metadata names model, layer, pool.
    """
    manifest, rejected = rows_of(sources, where), []
    reach = model.config.geometry.receptive_field
    choose_layers(layer, model.config.num_hidden_layers + 1)
    known, vectors, began = [], [], time.perf_counter()
    with tqdm(total=len(manifest), unit="clip", desc="embed") as bar:
        for chosen, waves in batches(manifest, batch_seconds, reach, rejected):
            if len(waves) == 1 and chosen[0].duration > LONGEST:
                vectors.append(embed_long(model, waves[0], layer, pool))
            else:
                vectors += embed_waves(model, waves, layer=layer, pool=pool)
            known += chosen
            bar.update(len(chosen))
            heard = sum(row.duration for row in known) / (time.perf_counter() - began)
            bar.set_postfix_str(f"{heard:.0f} s audio/s", refresh=False)
    write_rejected(rejected, out)
    if not known:
        raise InputError(f"none of the {len(manifest)} clips could be embedded; see {rejected_file(out)}")
    speed = sum(row.duration for row in known) / (time.perf_counter() - began)
    meta = {"model": str(model.source), "layer": str(layer), "pool": pool}
    write_parquet(known, vectors, out, meta, several=layer in ("all", "weighted"), framed=pool == "none")
    return Embedded(out=out, rows=len(known), width=int(np.shape(vectors[0])[-1]), speed=speed, rejected=rejected)


def write_parquet(rows: list[Utterance], vectors: list[np.ndarray], out: Path, meta: dict, several: bool, framed: bool):
    """One Parquet file, replaced in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        name: pa.array([getattr(row, name) for row in rows], pa.string())
        for name in ("id", "path", "speaker", "label", "text", "split")
    }
    columns["duration"] = pa.array([row.duration for row in rows], pa.float64())
    if framed:
        columns["frames"] = pa.array([int(vector.shape[-2]) for vector in vectors], pa.int32())
    named = (
        {f"vector_{i:02d}": [v[i] for v in vectors] for i in range(len(vectors[0]))} if several else {"vector": vectors}
    )
    for name, column in named.items():
        columns[name] = pa.array([np.ravel(v).astype(np.float32) for v in column], pa.list_(pa.float32()))
    table = pa.table(columns).replace_schema_metadata({f"speechssl.{k}": v for k, v in meta.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(out.name + ".tmp")
    pq.write_table(table, draft)
    os.replace(draft, out)


def rejected_file(out: Path) -> Path:
    """e.parquet -> e.rejected.tsv."""
    return out.with_suffix(".rejected.tsv")


def write_rejected(rejected: list[tuple[str, str]], out: Path) -> None:
    """The clips that were left out, with the reason."""
    path = rejected_file(out)
    path.unlink(missing_ok=True)
    if rejected:
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{source}\t{reason}" for source, reason in rejected]
        path.write_text("\n".join(["path\treason", *lines]) + "\n", encoding="utf-8")
