"""What a run is steered by besides its loss, measured at each validation: ABX of the layers, rank and purity of the best, and a
probe."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.core.errors import InputError
from speechssl.core.memory import one_thread
from speechssl.data.tables import read_manifest
from speechssl.models.protocol import Encoder
from speechssl.objectives.recipe import Recipe
from speechssl.score.abx import Caps, Frames, Token, abx, cut, draw, read_items
from speechssl.score.abx_table import frame_times, read_waves
from speechssl.score.layers import wave_of
from speechssl.score.probe import probe_vectors, to_values
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.sound.mfcc import standardised

CAPS = Caps(most=6, pairs=60)  # a quarter of the work of `speechssl abx`
CLUSTERS = 100  # whose purity is measured
SHOTS, FOLDS = 8, 3  # of the probe: clips of each class and speaker at most, and folds
LONGEST = 30.0  # seconds of audio per file; more would be computed at once


class AbxWatch:
    """Called with the network, gives what joins the line of a validation: `abx_0` ... for the layers, the mean of the errors
    within and across speakers; `abx`, the least of them; `layer`, where that is; and of that layer `rank`, the effective rank,
    and `purity`, the phone purity of its clusters."""

    def __init__(self, items: Path, root: Path) -> None:
        """InputError for bad items or missing audio."""
        self.tokens = draw(read_items(items), CAPS)
        self.waves = read_waves(self.tokens, items, root)
        long = next((name for name, wave_S in self.waves.items() if len(wave_S) > LONGEST * SAMPLE_RATE), None)
        if long:
            raise InputError(
                f"{items}: {long} is longer than {LONGEST:g} s; items for train.abx are of single utterances"
            )

    @torch.inference_mode()
    def __call__(self, model: Encoder) -> dict[str, float]:
        files = {name: model.states([wave_S])[0].float().cpu().numpy() for name, wave_S in self.waves.items()}
        rate, centre = frame_times(model)
        found: dict[str, float] = {}
        with one_thread():
            for layer in range(model.layers):
                of_layer = {name: Frames(standardised(x_LTD[layer]), rate, centre) for name, x_LTD in files.items()}
                score = abx(of_layer, self.tokens, CAPS)
                found[f"abx_{layer}"] = (score.within + score.across) / 2
            best = min(range(model.layers), key=lambda layer: found[f"abx_{layer}"])
            of_best = {name: Frames(standardised(x_LTD[best]), rate, centre) for name, x_LTD in files.items()}
            purity = phone_purity(of_best, [token for drawn in self.tokens.values() for token in drawn])
        rank = effective_rank(np.concatenate([x_LTD[best] for x_LTD in files.values()]))
        return {**found, "abx": found[f"abx_{best}"], "layer": float(best), "rank": rank, "purity": purity}


def effective_rank(x_TD: np.ndarray) -> float:
    """exp(entropy) of the singular values of centred frames, as shares of their sum (Roy and Vetterli 2007)."""
    centred_TD = x_TD.astype(np.float64) - x_TD.mean(axis=0)
    values_D = np.sqrt(np.linalg.eigvalsh(centred_TD.T @ centred_TD).clip(0))
    share_D = values_D[values_D > 0] / values_D.sum()
    return float(np.exp(-(share_D * np.log(share_D)).sum()))


def phone_purity(files: Mapping[str, Frames], tokens: Sequence[Token], clusters: int = CLUSTERS) -> float:
    """How often the most frequent phone of a frame's cluster is its phone (HuBERT, Hsu et al. 2021, section IV.D): k-means
    clusters of the tokens' frames."""
    from sklearn.cluster import MiniBatchKMeans

    pieces = [cut(files[token.file], token) for token in tokens]
    phones_N = np.repeat([token.phone for token in tokens], [len(piece_TD) for piece_TD in pieces])
    x_ND = np.concatenate(pieces)
    clusters = min(clusters, len(x_ND))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few distinct points in tiny data
        options: Any = {"batch_size": 4096, "n_init": 1, "random_state": 1}
        code_N = MiniBatchKMeans(clusters, **options).fit_predict(x_ND)
    _, phone_N = np.unique(phones_N, return_inverse=True)
    counts_KP = np.zeros((clusters, phone_N.max() + 1))
    np.add.at(counts_KP, (code_N, phone_N), 1)
    return float(counts_KP.max(axis=1).sum() / len(x_ND))


class ProbeWatch:
    """The same for labels: `probe_0` ..., 1 - UAR of a linear probe on the mean over time of each layer, tested on unseen
    speakers; `probe`, the least of them; `layer`, where that is."""

    def __init__(self, manifest: Path) -> None:
        """InputError for audio that cannot be read, or without labels and speakers."""
        rows = list(read_manifest(manifest))
        self.labels, self.speakers = (
            to_values(manifest, name, [getattr(row, name) for row in rows]) for name in ("label", "speaker")
        )
        chosen = few(self.labels, self.speakers)
        self.labels, self.speakers = self.labels[chosen], self.speakers[chosen]
        self.waves = [wave_of(rows[i]) for i in chosen]
        self.score(np.zeros((len(chosen), 1)))  # before the run: are there enough speakers and classes?

    def score(self, x_ND: np.ndarray) -> float:
        """1 - UAR of a probe of these vectors."""
        result = probe_vectors({"vector": x_ND}, self.labels, self.speakers, label="label", folds=FOLDS)
        return 1 - result.scores[0].uar

    @torch.inference_mode()
    def __call__(self, model: Encoder) -> dict[str, float]:
        means_NLD = np.stack([model.states([wave_S])[0].float().mean(dim=1).cpu().numpy() for wave_S in self.waves])
        found = {f"probe_{layer}": self.score(means_NLD[:, layer]) for layer in range(model.layers)}
        best = min(range(model.layers), key=lambda layer: found[f"probe_{layer}"])
        return {**found, "probe": found[f"probe_{best}"], "layer": float(best)}


def few(labels: np.ndarray, speakers: np.ndarray) -> list[int]:
    """The first SHOTS clips of each class and speaker."""
    taken: Counter = Counter()
    chosen = []
    for i, key in enumerate(zip(labels.tolist(), speakers.tolist(), strict=True)):
        taken[key] += 1
        if taken[key] <= SHOTS:
            chosen.append(i)
    return chosen


def watch_of(recipe: Recipe) -> Callable[[Encoder], dict[str, float]] | None:
    """The watch that a recipe asks for with train.abx and train.probe; ABX decides on the layer where both are there."""
    config, watches = recipe.train, []
    if config.probe:
        watches.append(ProbeWatch(Path(config.probe)))
    if config.abx:
        items = Path(config.abx)
        watches.append(AbxWatch(items, Path(config.abx_root) if config.abx_root else items.parent))
    if not watches:
        return None
    return lambda model: {name: value for watch in watches for name, value in watch(model).items()}
