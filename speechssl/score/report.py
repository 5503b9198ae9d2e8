"""One self-contained HTML page: text, tables, figures, clips that can be played. Nothing is loaded from elsewhere."""

import base64
import html
import io
import json
import os
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile

from speechssl.core.files import replacing
from speechssl.sound import audio

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--ground:#fbfcfd;--card:#fff;--accent:#2a6fbb}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa5b4;--line:#303a47;--ground:#151a21;--card:#1c232c;--accent:#7ab3ef}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.5rem 0 .5rem;border-top:1px solid var(--line);padding-top:1.2rem}
p{max-width:46rem}.note{color:var(--soft);font-size:.9rem}
figure{margin:1rem 0;background:#fff;border:1px solid var(--line);
border-radius:8px;padding:.6rem}figure img{width:100%;height:auto;display:block}figcaption{color:#5b6675;
font-size:.88rem;padding:.3rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;background:var(--card);border:1px solid var(--line);margin:.8rem 0}
th,td{padding:.45rem .8rem;border-bottom:1px solid var(--line);text-align:left;font-variant-numeric:tabular-nums}
th{font-size:.85rem;color:var(--soft)}tr:last-child td{border-bottom:0}audio{height:34px;width:15rem;vertical-align:middle}
code{background:var(--card);border:1px solid var(--line);border-radius:4px;padding:.05rem .3rem}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.8rem;overflow-x:auto;font-size:.88rem}
.sorts th{padding:0}.sorts button{all:unset;cursor:pointer;padding:.45rem .8rem;white-space:nowrap}
.sorts button:after{content:" ↕"}
.sorts [aria-sort=ascending] button:after{content:" ↑"}
.sorts [aria-sort=descending] button:after{content:" ↓"}
.sorts button:focus-visible{outline:2px solid var(--accent)}
""".replace("\n", "")
SORT = """
<script>for(const table of document.querySelectorAll("table.sorts"))for(const button of table.querySelectorAll("th button"))
button.onclick=()=>{const head=button.parentNode,column=head.cellIndex,body=table.tBodies[0],rows=[...body.rows],
text=row=>row.cells[column].textContent,numbers=rows.every(row=>text(row)===""||!isNaN(parseFloat(text(row)))),
sign=head.getAttribute("aria-sort")==="descending"||(!numbers&&!head.hasAttribute("aria-sort"))?1:-1,
value=row=>text(row)===""?-Infinity:parseFloat(text(row));
rows.sort((a,b)=>sign*(numbers?value(a)-value(b):text(a).localeCompare(text(b),undefined,{numeric:true})));
for(const other of table.querySelectorAll("th"))other.removeAttribute("aria-sort");
head.setAttribute("aria-sort",sign>0?"ascending":"descending");body.append(...rows)}</script>
""".strip()
PALETTE = ("#2a6fbb", "#d1495b", "#3b8f5a", "#e0a12b", "#7b5ea7", "#4aa3a2", "#8c6d4f", "#c2699f", "#6b7280", "#a3b43a")
LEGEND = 20  # names; more would be taller than the picture


class Page:
    """Collects what is added in order; `save` writes the page."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> "Page":
        """A section's heading."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")
        return self

    def text(self, text: str, note: bool = False) -> "Page":
        """A paragraph."""
        self.parts.append(f"<p{' class=note' if note else ''}>{html.escape(text)}</p>")
        return self

    def code(self, text: str) -> "Page":
        """Preformatted text."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")
        return self

    def table(self, rows: Sequence[dict[str, Any]], sorts: bool = False) -> "Page":
        """Rows with the same keys; the keys are the heads. sorts: a click on a head sorts by its column."""
        heads = [html.escape(str(key)) for key in rows[0]]
        head = "".join(f"<th><button>{name}</button></th>" if sorts else f"<th>{name}</th>" for name in heads)
        body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row.values()) + "</tr>" for row in rows)
        kind = " class=sorts" if sorts else ""
        table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return self.markup(Html(f"<div class=scroll>{table}</div>"))

    def markup(self, markup: "Html") -> "Page":
        """What is HTML already."""
        self.parts.append(markup)
        return self

    def figure(self, figure: Any, caption: str) -> "Page":
        """A matplotlib figure."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
        data = base64.b64encode(buffer.getvalue()).decode()
        text = html.escape(caption)
        image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
        self.parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
        return self

    def save(self, path: Path) -> Path:
        """Write the page."""
        head = f'<meta charset=utf-8><meta name=viewport content="width=device-width"><title>{html.escape(self.title)}</title>'
        body = "\n".join(self.parts)
        body += SORT if "<table class=sorts>" in body else ""
        page = f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body><main>{body}</main></body></html>"
        with replacing(path) as draft:  # a file name may hold bytes that are no UTF-8
            draft.write_text(page, encoding="utf-8", errors="backslashreplace")
        return path


class Html(str):
    """Markup that a table cell shows as it is."""


def cell(value: Any) -> str:
    """A table cell."""
    return value if isinstance(value, Html) else html.escape(str(value))


def linked_player(path: str, page: Path, start: float, seconds: float) -> Html:
    """A control that plays a part of an audio file where it lies, by its address relative to the folder of the page."""
    address = quote(os.fsencode(os.path.relpath(path, page.parent)))
    return Html(f'<audio controls preload=none src="{address}#t={start:.2f},{start + seconds:.2f}"></audio>')


def player(path: str, **segment: Any) -> Html:
    """A control that plays an audio file, or a segment as in audio.load, from inside the page, at 16 kHz."""
    buffer = io.BytesIO()
    wave_S = audio.load(path, **segment)
    soundfile.write(buffer, wave_S, audio.SAMPLE_RATE, format="FLAC")
    data = base64.b64encode(buffer.getvalue()).decode()
    return Html(f'<audio controls preload=none src="data:audio/flac;base64,{data}"></audio>')


def escape_dollars(text: str) -> str:
    """Escape `$`, which would begin a formula in a figure of matplotlib."""
    return text.replace("$", r"\$")


def axes(columns: int = 1, height: float = 3.2):
    """A figure with plain axes. It needs no display and is unknown to pyplot, so a caller's notebook keeps its backend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height))
    grid = figure.subplots(1, columns, squeeze=False)
    for ax in grid[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, list(grid[0])


def read_log(run: Path, split: str) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl of one split."""
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["split"] == split]


def plot_curves(runs: dict[str, Path], metrics: dict[str, str], split: str = "train"):
    """One panel per metric (name -> title), one curve per run."""
    figure, panels = axes(len(metrics))
    for ax, (metric, title) in zip(panels, metrics.items(), strict=True):
        for (name, run), colour in zip(runs.items(), cycle(PALETTE), strict=False):
            lines = [line for line in read_log(run, split) if metric in line]
            ax.plot([line["step"] for line in lines], [line[metric] for line in lines], color=colour, label=name)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("update")
    panels[-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def draw_spectrogram(ax: Any, wave_S: np.ndarray) -> None:
    """Log-mel spectrogram (librosa) into the axes `ax`, time in seconds."""
    import librosa

    mel_FT = librosa.feature.melspectrogram(y=wave_S, sr=audio.SAMPLE_RATE, n_fft=400, hop_length=160, n_mels=64)
    seconds = len(wave_S) / audio.SAMPLE_RATE
    decibels_FT, style = librosa.power_to_db(mel_FT, ref=np.max), dict(cmap="magma", interpolation="nearest")
    ax.imshow(decibels_FT, origin="lower", aspect="auto", extent=(0, seconds, 0, len(mel_FT)), **style)
    ax.set(yticks=[], ylabel="mel band")
    ax.grid(False)


def plot_spectrogram(wave_S: np.ndarray, words: Sequence[Any], title: str):
    """Log-mel spectrogram with the words under it at their times."""
    figure, (ax,) = axes(height=2.9)
    draw_spectrogram(ax, wave_S)
    style = {"ha": "center", "va": "top", "fontsize": 11, "color": PALETTE[0], "transform": ax.get_xaxis_transform()}
    for word in words:
        ax.axvspan(word.start, word.end, ymax=0.03, color=PALETTE[0])
        ax.text((word.start + word.end) / 2, -0.13, word.text, **style)  # between the ticks and their label
    ax.set_title(title)
    ax.set_xlabel("seconds", labelpad=20)
    return figure


def plot_embedding_map(vectors_ND: np.ndarray, colourings: dict[str, Sequence[str]], seed: int = 1):
    """t-SNE of embeddings, one panel per colouring (title -> value of each clip)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(vectors_ND)
    reduced = PCA(min(30, *scaled.shape), random_state=seed).fit_transform(scaled)
    points = TSNE(perplexity=min(30, len(reduced) / 4), init="pca", random_state=seed).fit_transform(reduced)
    figure, panels = axes(len(colourings), height=4.4)
    for ax, (title, values) in zip(panels, colourings.items(), strict=True):
        names = sorted(set(values))
        dots = []
        for value, colour in zip(names, cycle(PALETTE), strict=False):
            mask = np.array(values) == value
            dots.append(ax.scatter(points[mask, 0], points[mask, 1], s=11, color=colour, linewidths=0))
        ax.set(title=f"{title} ({len(names)})", xticks=[], yticks=[])
        if len(names) <= LEGEND:
            ax.legend(
                dots,
                map(escape_dollars, names),
                frameon=False,
                fontsize=8,
                markerscale=2,
                loc="center left",
                bbox_to_anchor=(1, 0.5),
            )
    figure.tight_layout()
    return figure
