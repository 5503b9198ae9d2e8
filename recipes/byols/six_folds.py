"""Emotion of unseen actors: RAVDESS in six folds of four actors, for the table in README.md.

    python recipes/byols/six_folds.py RAVDESS.tsv MODEL ... [--random 3] [--layers]

Per fold: standardise the embeddings, fit a logistic regression, choose its strength on the next fold, refit with that fold
included. The UAR is over all 1,440 clips. --random N: each network with N seeds of random weights too. --layers: every layer, not
only the last.
"""

import argparse
from pathlib import Path

import numpy as np

import speechssl
from speechssl.data.manifest import Manifest
from speechssl.data.tables import read_manifest
from speechssl.score.protocols import Protocol, Split
from speechssl.score.runner import run_protocol
from speechssl.sound import audio
from speechssl.sound.features import log_mel_statistics


def actor_splits(ids, labels, actors, task, seed) -> list[Split]:
    """Test on four consecutive actors, choose on the next four."""
    fold_N = (actors.astype(int) - 1) // 4
    tests = [fold_N == fold for fold in range(6)]
    valids = [fold_N == (fold + 1) % 6 for fold in range(6)]
    return [
        Split.three_way(np.flatnonzero(~test & ~valid), np.flatnonzero(valid), np.flatnonzero(test))
        for test, valid in zip(tests, valids, strict=True)
    ]


SIX_FOLDS = Protocol(name="six folds", summary="four unseen actors a fold", splits=actor_splits, seeds=(1,))


def six_folds(x_ND: np.ndarray, rows: Manifest) -> float:
    """Unweighted average recall in %."""
    ids, labels, actors = (rows.column(name) for name in ("id", "label", "speaker"))
    data = {"vectors": x_ND}
    result = run_protocol(SIX_FOLDS, data, ids, np.array(labels), np.array(actors), task="ravdess", model="")
    return 100 * result.scores[0].uar


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
    statistics_ND = np.stack([log_mel_statistics(wave_S) for wave_S in waves])
    print(f"log-mel statistics: {six_folds(statistics_ND, rows):.1f}", flush=True)
    for name in args.models:
        model = speechssl.load(name)
        others = [(f"{name}, random weights {seed}", model.untrained(seed)) for seed in range(1, args.random + 1)]
        for title, one in [(name, model), *others]:
            vectors = [one.embed(wave_S, layer="all" if args.layers else "last") for wave_S in waves]
            x_NLD = np.stack(vectors).reshape(len(waves), -1, vectors[0].shape[-1])
            for layer in range(x_NLD.shape[1]):
                where = f", layer {layer}" if args.layers else ""
                print(f"{title}{where}: {six_folds(x_NLD[:, layer], rows):.1f}", flush=True)


if __name__ == "__main__":
    main()
