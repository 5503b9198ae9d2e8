"""The HTML page of a benchmark: table, confusion, bars per class and speaker, a map, misclassified clips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechssl.data.channels import segment_of
from speechssl.data.manifest import Utterance
from speechssl.score.metrics import Result
from speechssl.score.report import PALETTE, Page, axes, escape_dollars, player, plot_embedding_map

MAP_CLIPS = 800
BARS = 100


def write_page(result: Result, rows: Sequence[Utterance], vectors: str, vectors_ND: np.ndarray, path: Path) -> None:
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
    order = sorted(best.groups, key=lambda speaker: best.groups[speaker])
    if len(order) > BARS:
        order = [order[i] for i in np.linspace(0, len(order) - 1, BARS).round().astype(int)]
    caption = f"Accuracy per test speaker ({len(order)} of {len(best.groups)}, from the worst to the best); line: mean"
    page.figure(plot_bars({who: best.groups[who] for who in order}, f"accuracy, {name}", best.accuracy), caption)
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
    clips = []
    for row, guess in [(rows[i], best.predicted[i]) for i in shown]:
        sound = player(row.path, **segment_of(row))
        clips.append({"clip": row.id, "speaker": row.speaker, "is": row.label, "taken for": guess, "listen": sound})
    if clips:
        page.table(clips)
    page.save(path)


def plot_confusion(confusion: list[list[int]], classes: list[str]):
    """Row-normalised confusion matrix."""
    counts = np.array(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (ax,) = axes(height=0.5 * len(classes) + 1.5)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=colour)
    ticks, names = range(len(classes)), [escape_dollars(name) for name in classes]
    ax.set(xticks=ticks, yticks=ticks, xticklabels=names, yticklabels=names, xlabel="predicted", ylabel="true")
    ax.tick_params(axis="x", rotation=90 if len(names) > 10 else 0)
    ax.grid(False)
    return figure


def plot_bars(values: dict[str, float], title: str, line: float):
    """One bar per name, and a line across."""
    figure, (ax,) = axes(height=2.6)
    ax.bar([escape_dollars(name) for name in values], [100 * value for value in values.values()], color=PALETTE[0])
    ax.axhline(100 * line, color=PALETTE[1], linewidth=1)
    ax.set_title(f"{title}, %", fontsize=10, loc="left")
    ax.tick_params(axis="x", rotation=90 if len(values) > 10 else 0, labelsize=8)
    return figure
