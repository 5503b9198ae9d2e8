"""`speechssl benchmark`: a model on an emotion corpus under a named protocol, beside chance, log-mel statistics and the same
network with random weights; a table, a JSON and one HTML page."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder
from speechssl.data.manifest import Manifest, Utterance, escape
from speechssl.score.metrics import Result
from speechssl.score.page import write_page
from speechssl.score.protocols import PROTOCOLS, Protocol
from speechssl.score.runner import run_protocol, splits_of
from speechssl.score.task import read_task
from speechssl.sound import audio
from speechssl.sound.features import log_mel, log_mel_statistics
from speechssl.use.api import SpeechModel, load
from speechssl.use.embed import LONGEST, embed_clip, embed_waves
from speechssl.use.stream import BATCH, reason, stream_clips

MODEL, RANDOM, LOG_MELS, LOG_MEL_STATISTICS = "model", "random weights", "log-mels", "log-mel statistics"


def benchmark(
    model: str,
    data: Path,
    *,
    task: str = "auto",
    protocol: str = "unseen",
    label: str = "label",
    pattern: str = "",
    layer: str = "best",
    where: str | Sequence[str] = "",
    out: Path | None = None,
    device: str = "cpu",
    precision: str = "float32",
) -> Result:
    """Embed the clips of `data`, score them, write out/benchmark.json and out/benchmark.html.

    data: a corpus folder or a manifest with `label` and `speaker`. pattern: the meaning of file names, see data/corpora.py.
    layer: best, last, a number, or all (a line each). InputError: unknown names, missing labels or speakers, no readable clip.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    plan = PROTOCOLS[protocol]
    clips = read_task(Path(data), task, label=label, where=where, pattern=pattern, leave_out=plan.leave_out)
    splits_of(plan, *clips.columns(), clips.name)  # before the work: are there enough speakers and classes?
    if out is not None:
        output_folder(out)
    loaded = load(model, device=device, precision=precision)
    named, rows, rejected = embed_all(loaded, clips.rows, layer, plan)
    if layer == "best" and loaded.best_layer != loaded.model.layers - 1:
        clips.notes.append(
            f"layer {loaded.best_layer} of the model, which its training found best; --layer all shows every one"
        )
    notes = clips.notes + [f"left out: {escape(path)}: {reason}" for path, reason in rejected[:5]]
    if len(rejected) > 5:
        notes.append(f"and {len(rejected) - 5} more clips that cannot be read")
    result = run_protocol(plan, named, *clips.columns(rows), task=clips.name, model=str(model), notes=notes)
    if out is not None:
        result.save(out / "benchmark.json")
        shown = [name for name in named if name.partition(",")[0] == MODEL][-1]
        vectors = [x.mean(axis=0) for x in named[shown]] if plan.frames else named[shown]
        write_page(result, rows, shown, np.asarray(vectors, dtype=np.float64), out / "benchmark.html")
    return result


def embed_all(
    model: SpeechModel, rows: list[Utterance], layer: str, protocol: Protocol
) -> tuple[dict[str, np.ndarray], list[Utterance], list[tuple[str, str]]]:
    """The clips as a protocol wants them: embeddings of the model and of the same network with random weights, and log-mels.

    Returns vectors (N, D), or an array of the frames (T, D) of N clips, by name; the N clips; and (path, reason) of those
    that cannot be read. InputError if none can.
    """
    extractor = Extractor(model, layer, protocol)
    results = stream_clips(
        Manifest.of(rows),
        range(len(rows)),
        extractor.batch,
        extractor.long_clip,
        reach=model.config.geometry.receptive_field,
        longest=LONGEST,
        batch_seconds=BATCH[model.device.type],
        what="embed",
    )
    kept, found, rejected = [], [], []
    for result in chain.from_iterable(results):
        if isinstance(result.value, InputError):
            rejected.append((result.row.path, reason(result)))
        else:
            kept.append(result.row)
            found.append(result.value)
    if not kept:
        raise InputError(f"none of {len(rows)} clips can be read; the first: {rejected[0][0]}: {rejected[0][1]}")
    stack = stack_frames if protocol.frames else partial(np.stack, dtype=np.float64)
    return {name: stack([clip[name] for clip in found]) for name in found[0]}, kept, rejected


class Extractor:
    """Turns waves into everything that a benchmark compares: {name: vector (D,), or frames (T, D)} of a clip."""

    def __init__(self, model: SpeechModel, layer: str, protocol: Protocol) -> None:
        self.networks = {MODEL: model, RANDOM: model.untrained()}
        self.layer, self.protocol = layer, protocol
        self.how: dict[str, Any] = {"layer": layer, "pool": "none" if protocol.frames else "model"}

    def batch(self, waves: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Several clips in one batch, which does not change the result of any."""
        waves = [cut_or_pad(wave_S, self.protocol.seconds) for wave_S in waves]
        found = {name: embed_waves(network, waves, **self.how) for name, network in self.networks.items()}
        return [
            self.compared({name: values[i] for name, values in found.items()}, wave_S) for i, wave_S in enumerate(waves)
        ]

    def long_clip(self, path: str, **segment: Any) -> dict[str, np.ndarray]:
        """One clip that is embedded in windows. segment: start and duration."""
        wave_S = cut_or_pad(audio.load(path, **segment), self.protocol.seconds)
        found = {name: embed_clip(network, wave_S, **self.how) for name, network in self.networks.items()}
        return self.compared(found, wave_S)

    def compared(self, embeddings: dict[str, np.ndarray], wave_S: np.ndarray) -> dict[str, np.ndarray]:
        """A name for each layer of the embeddings, and the log-mels of the clip."""
        values: dict[str, np.ndarray] = {}
        for name, value in embeddings.items():
            layers = value if self.layer in ("all", "weighted") else value[None]
            for index, of_layer in enumerate(layers):
                values[f"{name}, layer {index}" if len(layers) > 1 else name] = of_layer
        if not self.protocol.frames:
            return values | {LOG_MEL_STATISTICS: log_mel_statistics(wave_S)}
        values[LOG_MELS] = log_mel(wave_S).T
        return {name: standardise_frames(frames_TD) for name, frames_TD in values.items()}


def stack_frames(clips: Sequence[np.ndarray]) -> np.ndarray:
    """(T, D) of N clips, T different for each -> an array of N arrays."""
    stacked = np.empty(len(clips), dtype=object)
    for i, frames_TD in enumerate(clips):
        stacked[i] = frames_TD
    return stacked


def standardise_frames(frames_TD: np.ndarray) -> np.ndarray:
    """Bring all numbers of a clip together to zero mean and unit variance, as EmoBox does; kept in 16 bits."""
    return ((frames_TD - frames_TD.mean()) / np.sqrt(frames_TD.var() + 1e-5)).astype(np.float16)


def cut_or_pad(wave_S: np.ndarray, seconds: float) -> np.ndarray:
    """A clip cut or padded with zeros to a protocol's length (0: as it is)."""
    size = round(seconds * audio.SAMPLE_RATE)
    return np.pad(wave_S[:size], (0, max(0, size - len(wave_S)))) if size else wave_S
