"""Emotion of unseen actors: RAVDESS in six folds of four actors, for the table in README.md.

    python recipes/byols/six_folds.py RAVDESS.tsv MODEL ... [--random 3] [--layers]

Per fold: standardise the embeddings, fit a logistic regression, choose its strength on the next fold, refit with that fold
included. The UAR is over all 1,440 clips. --random N: each network with N seeds of random weights too. --layers: every layer, not
only the last.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import speechssl
from speechssl.core.progress import Progress
from speechssl.data.manifest import Manifest, read_manifest
from speechssl.score.heads import Parts, logistic
from speechssl.score.probe import recall
from speechssl.sound import audio
from speechssl.sound.features import LogMel
from speechssl.use.embed import embed_waves


def six_folds(x_ND: np.ndarray, rows: Manifest) -> float:
    """Unweighted average recall in %."""
    labels = np.array(rows.column("label"))
    fold_N = (np.array([int(actor) for actor in rows.column("speaker")]) - 1) // 4
    guessed = np.empty_like(labels)
    for fold in range(6):
        test, valid = fold_N == fold, fold_N == (fold + 1) % 6
        train = ~test & ~valid
        parts = Parts(x_ND[train], x_ND[valid], x_ND[test], labels[train], labels[valid])
        guessed[test] = logistic(parts, seed=1)[""]
    return 100 * recall(labels, guessed)


def log_mel_statistics(waves: Sequence[np.ndarray]) -> np.ndarray:
    """Mean, deviation and maximum of every mel band over time."""
    import torch

    mel = LogMel("byol-s")
    found = [mel(torch.from_numpy(wave_S)[None])[0] for wave_S in waves]
    return np.stack([torch.cat([m.mean(1), m.std(1), m.amax(1)]).numpy() for m in found])


def embeddings(model, waves: Sequence[np.ndarray], layer: str) -> np.ndarray:
    """The model's own pooling of each clip, (N, L, D)."""
    vectors = []
    with Progress(len(waves), "clip", "embed", leave=False) as bar:
        for first in range(0, len(waves), 16):
            group = waves[first : first + 16]
            vectors += embed_waves(model, group, layer=layer, pool="model")
            bar.update(len(group))
    return np.stack(vectors).reshape(len(vectors), -1, vectors[0].shape[-1])


def main() -> None:
    """Print a line for each embedding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--layers", action="store_true")
    args = parser.parse_args()
    rows = read_manifest(args.manifest)
    waves = [audio.load(row.path) for row in rows]
    print(f"log-mel statistics: {six_folds(log_mel_statistics(waves), rows):.1f}", flush=True)
    for name in args.models:
        model = speechssl.load(name)
        others = [(f"{name}, random weights {seed}", model.untrained(seed)) for seed in range(1, args.random + 1)]
        for title, one in [(name, model), *others]:
            x_NLD = embeddings(one, waves, "all" if args.layers else "last")
            for layer in range(x_NLD.shape[1]):
                where = f", layer {layer}" if args.layers else ""
                print(f"{title}{where}: {six_folds(x_NLD[:, layer], rows):.1f}", flush=True)


if __name__ == "__main__":
    main()
