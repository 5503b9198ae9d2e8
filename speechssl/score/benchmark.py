"""`speechssl benchmark`: a model on an emotion corpus under a named protocol, beside chance, log-mel statistics and the same
network with random weights; a table, a JSON and one HTML page."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, replacing
from speechssl.data.corpora import class_level, find_rows
from speechssl.data.cremad import is_pointer, missing
from speechssl.data.manifest import Manifest, Utterance, escape
from speechssl.score.protocol_runner import Result, run_protocol, splits_of
from speechssl.score.protocols import PROTOCOLS, Protocol
from speechssl.score.report import PALETTE, Page, axes, plain, player, plot_embedding_map
from speechssl.sound import audio
from speechssl.sound.features import LogMel
from speechssl.use.api import SpeechModel, load
from speechssl.use.embed import LONGEST, embed_clip, embed_waves
from speechssl.use.stream import BATCH, reason, stream_clips

TASKS = ("auto", "crema-d", "ravdess", "emodb", "emovo", "nemo", "savee", "shemo", "tess", "other")
MAP_CLIPS = 800
BARS = 100


def benchmark(
    model: str,
    data: Path,
    *,
    task: str = "auto",
    protocol: str = "unseen",
    label: str = "label",
    pattern: str = "",
    layer: str = "last",
    where: str = "",
    out: Path | None = None,
    device: str = "cpu",
    precision: str = "float32",
) -> Result:
    """Embed the clips of `data`, score them, write out/benchmark.json and out/benchmark.html.

    data: a corpus folder or a manifest with `label` and `speaker`. pattern: what the names of other folders tell, see
    data/corpora.py. layer: last, a number, or all (a line each). InputError:
    unknown names, missing labels or speakers, nothing to hear.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    plan = PROTOCOLS[protocol]
    rows, task, notes = read_task(Path(data), task, label, where, plan.leave_out, pattern)
    splits_of(plan, *columns(rows), task)  # before the work: are there speakers and classes enough?
    if out is not None:
        output_folder(out)
    loaded = load(model, device=device, precision=precision)
    named, kept, rejected = embed_all(loaded, rows, layer, plan)
    notes += [f"left out: {escape(path)}: {reason}" for path, reason in rejected[:5]]
    if len(rejected) > 5:
        notes.append(f"and {len(rejected) - 5} more clips that cannot be read")
    result = run_protocol(plan, named, *columns(kept), task=task, model=str(model), notes=notes)
    if out is not None:
        with replacing(out / "benchmark.json") as draft:
            draft.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        shown = [name for name in named if name.partition(",")[0] == "model"][-1]
        vectors = [x.mean(axis=0) for x in named[shown]] if plan.frames else named[shown]
        write_page(result, kept, shown, np.asarray(vectors, dtype=np.float64), out / "benchmark.html")
    return result


def columns(rows: Sequence[Utterance]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """What a protocol must know of the clips: names, labels, speakers."""
    return [Path(row.path).stem for row in rows], np.array([r.label for r in rows]), np.array([r.speaker for r in rows])


def read_task(
    data: Path, task: str, label: str, where: str, leave_out: Sequence[str], pattern: str = ""
) -> tuple[list, str, list[str]]:
    """(labelled rows, the task's name, what is missing or was changed)."""
    if task not in TASKS:
        raise InputError(f"there is no task {task!r}; choose one of {', '.join(TASKS)}")
    found, corpus = find_rows(data, "folder" if task == "other" else task, pattern)
    notes = missing(data) if corpus == "crema-d" else []
    rows = list(found.where(where))
    if label != "label":
        rows = [replace(row, label=str(getattr(row, label, row.extra.get(label, "")))) for row in rows]
    if corpus == "folder" and not any(row.label for row in rows):
        level, size = class_level([Path(row.path) for row in rows], data), len(data.parts)
        if level is not None:
            parts = [(*Path(row.path).parts[size:-1], *[""] * (level + 1)) for row in rows]
            rows = [replace(row, label=own[level], speaker="") for row, own in zip(rows, parts, strict=True)]
            names = sorted({row.label for row in rows} - {""})
            shown = ", ".join(names[:12]) + " ..." * (len(names) > 12)
            notes.append(
                f"no file name tells a label: the folders' names are taken ({shown}), and the speakers are unknown"
            )
    if corpus not in ("folder", "manifest", "pattern"):
        once: dict[tuple[str, str], Utterance] = {}
        for row in sorted(rows, key=lambda row: Path(row.path).suffix.lower() in audio.FOREIGN):  # sound before video
            once.setdefault((row.speaker, Path(row.path).stem), row)
        if len(once) < len(rows):
            notes.append(f"{len(rows) - len(once)} clips lie there twice, under the same name; one copy is used")
        rows = list(once.values())
    usable = [row for row in rows if row.label and Path(row.path).stem not in leave_out and not is_pointer(row.path)]
    if not usable:
        raise InputError(
            f"{data}: none of {len(rows)} clips has a {label}; give a manifest with the columns path, speaker and {label}, "
            "name the corpus with --task, or say with --pattern what its names mean"
        )
    if len(usable) < len(rows):
        notes.append(f"{len(rows) - len(usable)} of {len(rows)} clips are not used: no {label}, or as published")
    if task == "auto":
        task = corpus if corpus in TASKS else "other"
    return usable, task, notes


def embed_all(model: SpeechModel, rows: list[Utterance], layer: str, plan: Protocol):
    """({what: (N, D), or frames (T, D) of N clips}, the rows behind them, rejected): the model's layers, its random twin's,
    log-mels."""
    networks, mel = {"model": model, "random weights": model.untrained()}, LogMel("byol-s")
    how: dict[str, Any] = {"layer": layer, "pool": "none" if plan.frames else "model"}

    def named(found: dict[str, np.ndarray], wave_S: np.ndarray) -> dict[str, np.ndarray]:
        vectors = {}
        for name, values in found.items():
            layers = values if layer in ("all", "weighted") else values[None]
            for index, value in enumerate(layers):
                vectors[f"{name}, layer {index}" if len(layers) > 1 else name] = value
        mel_FT = mel(torch.from_numpy(wave_S)[None])[0]
        if plan.frames:
            return {
                name: normalised(frames_TD) for name, frames_TD in (vectors | {"log-mels": mel_FT.T.numpy()}).items()
            }
        statistics = torch.cat([mel_FT.mean(dim=1), mel_FT.std(dim=1, correction=0)])
        return vectors | {"log-mel statistics": statistics.numpy()}

    def several(waves: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        waves = [fit(wave_S, plan.seconds) for wave_S in waves]
        found = {name: embed_waves(network, waves, **how) for name, network in networks.items()}
        return [named({name: values[i] for name, values in found.items()}, wave_S) for i, wave_S in enumerate(waves)]

    def one(path: str, **segment: Any) -> dict[str, np.ndarray]:
        wave_S = fit(audio.load(path, **segment), plan.seconds)
        return named({name: embed_clip(network, wave_S, **how) for name, network in networks.items()}, wave_S)

    reach, budget = model.config.geometry.receptive_field, BATCH[model.device.type]
    sizes: dict[str, Any] = {"reach": reach, "longest": LONGEST, "batch_seconds": budget}
    batches = stream_clips(Manifest.of(rows), range(len(rows)), several, one, **sizes, what="embed")
    kept, found, rejected = [], [], []
    for result in chain.from_iterable(batches):
        if isinstance(result.value, InputError):
            rejected.append((result.row.path, reason(result)))
        else:
            kept.append(result.row)
            found.append(result.value)
    if not kept:
        raise InputError(f"none of {len(rows)} clips can be read; the first: {rejected[0][0]}: {rejected[0][1]}")
    return {name: gathered([of[name] for of in found], plan.frames) for name in found[0]}, kept, rejected


def gathered(values: list[np.ndarray], frames: bool) -> np.ndarray:
    """One matrix (N, D), or an array of N clips' frames."""
    if not frames:
        return np.stack(values).astype(np.float64)
    clips = np.empty(len(values), dtype=object)
    for i, frames_TD in enumerate(values):
        clips[i] = frames_TD
    return clips


def normalised(frames_TD: np.ndarray) -> np.ndarray:
    """All numbers of a clip brought to zero mean and unit variance together, as EmoBox does it; kept in 16 bits."""
    return ((frames_TD - frames_TD.mean()) / np.sqrt(frames_TD.var() + 1e-5)).astype(np.float16)


def fit(wave_S: np.ndarray, seconds: float) -> np.ndarray:
    """A clip cut or padded with zeros to a protocol's length."""
    size = round(seconds * audio.SAMPLE_RATE)
    return np.pad(wave_S[:size], (0, max(0, size - len(wave_S)))) if size else wave_S


def write_page(result: Result, rows: list[Utterance], vectors: str, vectors_ND: np.ndarray, path: Path) -> None:
    """The result as one page: table, then of the embeddings called `vectors` the confusion, bars per class and speaker, a map
    and misclassified clips."""
    best = next(score for score in result.scores if score.vectors == vectors)
    name = f"{result.task}/{result.protocol}"
    page = Page(f"{result.model} on {name}").text(result.summary)
    for flaw in result.flaws:
        page.text(f"Flaw of the published protocol: {flaw}.")
    for note in result.notes:
        page.text(note, note=True)
    page.code(str(result)).heading("Confusion" if vectors == "model" else f"Confusion of {vectors}")
    page.figure(plot_confusion(best.confusion, result.classes), "Share of each true class (row), all seeds")
    page.heading("Classes and speakers")
    page.figure(plot_bars(best.recall, f"recall, {name}", result.chance_uar), "Recall per class; line: chance")
    order = sorted(best.speakers, key=lambda speaker: best.speakers[speaker])
    if len(order) > BARS:
        order = [order[i] for i in np.linspace(0, len(order) - 1, BARS).round().astype(int)]
    caption = (
        f"Accuracy per test speaker ({len(order)} of {len(best.speakers)}, from the worst to the best); line: mean"
    )
    page.figure(plot_bars({who: best.speakers[who] for who in order}, f"accuracy, {name}", best.accuracy), caption)
    page.heading("Map")
    some = np.random.default_rng(1).permutation(len(rows))[:MAP_CLIPS]
    colours: dict[str, Sequence[str]] = {
        "by class": [rows[i].label for i in some],
        "by speaker": [rows[i].speaker for i in some],
    }
    if len(some) > 8:
        page.figure(plot_embedding_map(vectors_ND[some], colours), "t-SNE of the embeddings, unseen by the classifier")
    page.heading("Misclassified clips")
    wrong = [i for i, guess in enumerate(best.predicted) if guess not in ("", rows[i].label)]
    shown = np.random.default_rng(1).permutation(wrong)[:12].tolist()
    if shown:
        page.table([clip(rows[i], best.predicted[i]) for i in shown])
    page.save(path)


def clip(row: Utterance, guess: str) -> dict[str, Any]:
    """One misclassified clip as a row of the table."""
    return {
        "clip": row.id,
        "speaker": row.speaker,
        "is": row.label,
        "taken for": guess,
        "listen": player(row.path, row.start, row.duration),
    }


def plot_confusion(confusion: list[list[int]], classes: list[str]):
    """Row-normalised confusion matrix."""
    counts = np.array(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (ax,) = axes(height=0.5 * len(classes) + 1.5)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=colour)
    ticks, names = range(len(classes)), [plain(name) for name in classes]
    ax.set(xticks=ticks, yticks=ticks, xticklabels=names, yticklabels=names, xlabel="predicted", ylabel="true")
    ax.tick_params(axis="x", rotation=90 if len(names) > 10 else 0)
    ax.grid(False)
    return figure


def plot_bars(values: dict[str, float], title: str, line: float):
    """One bar per name, and a line across."""
    figure, (ax,) = axes(height=2.6)
    ax.bar([plain(name) for name in values], [100 * value for value in values.values()], color=PALETTE[0])
    ax.axhline(100 * line, color=PALETTE[1], linewidth=1)
    ax.set_title(f"{title}, %", fontsize=10, loc="left")
    ax.tick_params(axis="x", rotation=90 if len(values) > 10 else 0, labelsize=8)
    return figure
