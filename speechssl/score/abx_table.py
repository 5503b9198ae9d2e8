"""`speechssl abx`: phone discrimination of a model's layers, beside MFCC, log-mels and random weights."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_file, replacing
from speechssl.core.progress import Progress
from speechssl.data.corpora import audio_files
from speechssl.models.protocol import Encoder
from speechssl.score.abx import Caps, Frames, Score, Token, abx, draw, read_items, standard_error
from speechssl.sound import audio
from speechssl.sound.mfcc import WINDOW, log_mels, mfcc, standardised
from speechssl.use.pooling import choose_layers

NORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "standardise": standardised,
    "centre": lambda x_TD: x_TD - x_TD.mean(axis=0),
    "none": lambda x_TD: x_TD,
}
ROW = 100.0  # of MFCC and log-mels, per second


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores by the name of their features, the baselines first; the last ones are the model's layers."""

    model: str
    items: str
    tokens: int
    speakers: int
    caps: Caps
    norm: str
    scores: dict[str, Score]

    def best(self) -> int:
        """The number of the layer with the least sum of both errors."""
        layers = {name: score for name, score in self.scores.items() if name.startswith("layer ")}
        return int(min(layers, key=lambda name: layers[name].within + layers[name].across).removeprefix("layer "))

    def numbers(self) -> dict[str, dict[str, float]]:
        """Errors, standard errors over speakers, and differences to MFCC with their paired standard errors, in %."""
        found, (within, across) = {}, self.scores["MFCC"].by_speaker()
        for name, score in self.scores.items():
            own = score.by_speaker()
            found[name] = {"within": 100 * score.within, "across": 100 * score.across}
            for kind, mine, base in zip(("within", "across"), own, (within, across), strict=True):
                found[name] |= {f"{kind}_error": 100 * standard_error(mine)}
                found[name] |= {f"{kind}_gain": 100 * float(np.mean(mine - base))}
                found[name] |= {f"{kind}_gain_error": 100 * standard_error(mine - base)}
        return found

    def __str__(self) -> str:
        context = "phones in the same context" if self.caps.in_context else "phones in any context"
        lines = [
            f"{self.model} on {self.items}: ABX error in % (lower is better), {context}, {self.tokens} tokens, "
            f"{self.speakers} speakers, features: {self.norm} per file; ± standard error over speakers",
            f"  {'':16s} {'within speaker':>16s} {'across speakers':>16s}   difference to MFCC, paired",
        ]
        for name, row in self.numbers().items():
            errors = [f"{row[kind]:.1f} ± {row[kind + '_error']:.1f}" for kind in ("within", "across")]
            gains = [f"{row[kind + '_gain']:+.1f} ± {row[kind + '_gain_error']:.1f}" for kind in ("within", "across")]
            lines.append(f"  {name:16s} {errors[0]:>16s} {errors[1]:>16s}   {gains[0]:>12s} {gains[1]:>12s}")
        return "\n".join([*lines, f"best layer here: {self.best()}"])

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        values = {"model": self.model, "items": self.items, "norm": self.norm, "caps": vars(self.caps)}
        with replacing(path) as draft:
            draft.write_text(json.dumps({**values, "scores": self.numbers()}, indent=2) + "\n", encoding="utf-8")


def abx_table(
    model: Any,
    items: Path,
    *,
    root: Path | None = None,
    layer: str = "all",
    norm: str = "standardise",
    in_context: bool = False,
    out: Path | None = None,
) -> Table:
    """Score layers of `model` on an item file. root: where the names of its files begin (None: its folder).

    InputError: bad items, audio that is missing or cannot be read, an unknown layer.
    """
    if out is not None:
        output_file(out, "abx.json")
    caps = Caps(in_context=in_context, least=2 if in_context else 3)
    tokens, layers = draw(read_items(items), caps), choose_layers(layer, model)
    waves = read_waves(tokens, items, items.parent if root is None else root)
    change = NORMS[norm]
    scores: dict[str, Score] = {}
    with Progress(len(layers) + 3, "row", "abx", leave=False) as bar:
        for name, files in features(model, layers, waves):
            normed = {file: frames._replace(values_TD=change(frames.values_TD)) for file, frames in files.items()}
            scores[name] = abx(normed, tokens, caps)
            bar.update()
    count, known = sum(map(len, tokens.values())), {"model": str(model.source), "items": items.name}
    table = Table(**known, tokens=count, speakers=len(tokens), caps=caps, norm=norm, scores=scores)
    if out is not None:
        table.save(out)
    return table


def read_waves(tokens: dict[str, list[Token]], items: Path, root: Path) -> dict[str, np.ndarray]:
    """The audio of the files that tokens come from: `root/name`, or the file below `root` whose stem is the name, as in
    Libri-light."""
    names = sorted({token.file for own in tokens.values() for token in own})
    by_stem: dict[str, Path] = {}
    if not all((root / name).is_file() for name in names):
        by_stem = {path.stem: path for path in audio_files(root)}
    waves = {}
    for name in names:
        path = root / name if (root / name).is_file() else by_stem.get(Path(name).name)
        if path is None:
            raise InputError(f"{items} names {name}, which is not in {root}; say with --root where its audio lies")
        waves[name] = audio.load(path)
    return waves


def frame_times(model: Encoder) -> tuple[float, float]:
    """Frames per second, and the centre of frame 0 in seconds."""
    geometry = model.geometry
    return audio.SAMPLE_RATE / geometry.hop, geometry.centre / audio.SAMPLE_RATE


def features(
    model: Any, layers: Sequence[int], waves: dict[str, np.ndarray]
) -> Iterator[tuple[str, dict[str, Frames]]]:
    """(name, frames of every file): MFCC, log-mels, the last of `layers` with random weights, then each layer."""
    half = WINDOW / 2 / audio.SAMPLE_RATE
    yield "MFCC", {file: Frames(mfcc(wave_S), ROW, half) for file, wave_S in waves.items()}
    yield "log-mels", {file: Frames(log_mels(wave_S), ROW, half) for file, wave_S in waves.items()}
    for name, network, chosen in (("random weights", model.untrained(), layers[-1:]), ("", model, layers)):
        states = {file: network.hidden_states([wave_S], chosen)[0].numpy() for file, wave_S in waves.items()}
        rate, centre = frame_times(network.model)
        for index, number in enumerate(chosen):
            yield (
                name or f"layer {number}",
                {file: Frames(x_LTD[index], rate, centre) for file, x_LTD in states.items()},
            )
