"""Clips to vectors: layers, pooling, and one Parquet file with a row per clip."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speechssl import audio
from speechssl.data.corpora import CORPORA, detect
from speechssl.data.manifest import (
    Manifest,
    Utterance,
    escape,
    read_manifest,
    rejected_path,
    write_rejected,
)
from speechssl.errors import InputError
from speechssl.files import output_file, replacing
from speechssl.windows import windows

POOLS = ("model", "mean", "mean+max", "none")
LONGEST = 60.0  # seconds embedded at once; attention needs memory that grows with the square
GROUP = 2**22  # numbers that are gathered before they are written


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
    return mean_LD + largest_LD if pool == "model" and model.adds_maximum else mean_LD


def embed_clip(
    model: Any, source: Any, *, layer: int | str = "last", pool: str = "model", **segment: Any
) -> np.ndarray:
    """One clip of any length -> (D,) or (2 D,); (T, D) for pool="none"; with a leading axis of layers for layer="all".

    segment: start, duration and sample_rate as in audio.load. A long clip is read in windows, whose frames are pooled
    together, so that memory does not grow with it.
    """
    check_pool(pool)
    chosen = choose_layers(layer, model.config.num_hidden_layers + 1)
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
    for states_LTD in model.hidden_states(waves, choose_layers(layer, model.config.num_hidden_layers + 1)):
        mean_LD, largest_LD = states_LTD.mean(dim=1).numpy(), states_LTD.amax(dim=1).numpy()
        values = states_LTD.numpy() if pool == "none" else pooled(model, mean_LD, largest_LD, pool)
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
    return Manifest.of(rows).where(where)


def embed_rows(
    manifest: Manifest,
    rejected: list,
    batch_seconds: float,
    reach: int,
    several: Callable[[list[np.ndarray]], list],
    one: Callable[..., Any],
) -> Iterator[tuple[list[Utterance], list]]:
    """(utterances, their vectors); what cannot be used, or has fewer than `reach` samples, goes to `rejected`.

    several: embeds waves, those of about `batch_seconds` at a time. one: embeds a long clip, given as embed_clip wants it.
    """
    chosen, waves, total = [], [], 0.0
    for row in manifest:
        segment = {"start": row.start, "duration": None if np.isnan(row.duration) else row.duration}
        try:
            seconds = min(segment["duration"] or np.inf, audio.info(row.path).duration - row.start)
            row = replace(row, duration=seconds)  # what there is, whatever the manifest says
            if long := seconds > LONGEST:
                found = [row], [one(row.path, **segment)]
            elif len(wave_S := audio.load(row.path, **segment)) < reach:
                raise InputError(f"{len(wave_S)} samples are less than one frame ({reach} samples)")
        except InputError as error:
            rejected.append((row.path, str(error).removeprefix(row.path).strip()))
            continue
        if chosen and (long or total + seconds > batch_seconds):
            yield chosen, several(waves)
            chosen, waves, total = [], [], 0.0
        if long:
            yield found
        else:
            chosen, waves, total = [*chosen, row], [*waves, wave_S], total + seconds
    if chosen:
        yield chosen, several(waves)


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
    out = output_file(out, "e.parquet")
    manifest, rejected = rows_of(sources, where), []
    check_pool(pool)
    choose_layers(layer, model.config.num_hidden_layers + 1)
    reach = model.config.geometry.receptive_field
    several = partial(embed_waves, model, layer=layer, pool=pool)
    one = partial(embed_clip, model, layer=layer, pool=pool)
    meta = {"model": str(model.source), "layer": str(layer), "pool": pool}
    rows, seconds, width, began = 0, 0.0, 0, time.perf_counter()
    with (
        replacing(out) as draft,
        tqdm(total=len(manifest), unit="clip", desc="embed") as bar,
        Table(draft, meta) as table,
    ):
        for known, vectors in embed_rows(manifest, rejected, batch_seconds, reach, several, one):
            table.add(known, vectors)
            rows, width = rows + len(known), int(np.shape(vectors[0])[-1])
            seconds += sum(row.duration for row in known)
            bar.update(len(known))
            bar.set_postfix_str(f"{seconds / (time.perf_counter() - began):.0f} s audio/s", refresh=False)
        write_rejected(rejected, out)
        if not rows:
            reason = f"the first: {' '.join(rejected[0])}; all are listed in {rejected_path(out)}"
            raise InputError(f"none of the {len(manifest)} clips could be embedded; {reason}")
    speed = seconds / (time.perf_counter() - began)
    return Embedded(out=out, rows=rows, width=width, speed=speed, rejected=rejected)


class Table:
    """A Parquet file that is written in groups of rows, so that memory stays constant."""

    def __init__(self, path: Path, meta: dict[str, str]) -> None:
        self.path, self.meta, self.writer = path, {f"speechssl.{k}": v for k, v in meta.items()}, None
        self.several, self.framed = meta["layer"] in ("all", "weighted"), meta["pool"] == "none"
        self.rows: list[Utterance] = []
        self.vectors: list[np.ndarray] = []

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and self.rows:
            self.write()
        if self.writer is not None:
            self.writer.close()

    def add(self, rows: list[Utterance], vectors: list[np.ndarray]) -> None:
        """Some rows more."""
        self.rows += rows
        self.vectors += vectors
        if sum(vector.size for vector in self.vectors) > GROUP:
            self.write()

    def write(self) -> None:
        """Write the rows that wait as one group."""
        import pyarrow.parquet as pq

        table = self.group().replace_schema_metadata(self.meta)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)
        self.rows, self.vectors = [], []

    def group(self) -> Any:
        """The rows that wait as columns."""
        import pyarrow as pa

        columns: dict[str, Any] = {
            name: pa.array([getattr(row, name) for row in self.rows], pa.string())
            for name in ("id", "path", "speaker", "label", "text", "split")
        }
        columns["duration"] = pa.array([row.duration for row in self.rows], pa.float64())
        if self.framed:
            columns["frames"] = pa.array([int(vector.shape[-2]) for vector in self.vectors], pa.int32())
        named = {"vector": self.vectors}
        if self.several:
            layers = len(self.vectors[0]) if self.vectors else 0
            named = {f"vector_{i:02d}": [vector[i] for vector in self.vectors] for i in range(layers)}
        for name, column in named.items():
            columns[name] = pa.array([np.ravel(v).astype(np.float32) for v in column], pa.list_(pa.float32()))
        return pa.table(columns)
