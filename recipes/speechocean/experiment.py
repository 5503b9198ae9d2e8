"""Does pretraining help on read English? Speechocean762 with 2.4 hours, 30 and 10 minutes of labels, three seeds.

    python recipes/speechocean/experiment.py DATA OUT [--init MODEL] [--jobs 2]

DATA holds the manifests named in `tables`. Without --init the model is pretrained first (recipes/small, hours). Every fine-tuning
is one `speechssl finetune` in a process of its own, one thread each; finished runs are skipped. Prints a table, and writes
results.json and curves.png into OUT.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from speechssl.data.manifest import Utterance, write_manifest
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest

HERE = Path(__file__).resolve().parent
SEEDS = (1, 2, 3)
STARTS = ("random", "pretrained")
UPDATES = 1500  # of 8 s each: 3.3 hours of audio, four minutes on one core
SIZES = {"10min": 600.0, "30min": 1800.0, "2.4h": float("inf")}  # seconds of labelled speech
UNLABELED = {  # manifest -> split: everything whose licence allows shipping weights, and no test speaker
    "unlabeled.tsv": "unlabeled",
    "unlabeled_more.tsv": "unlabeled",
    "asr_speechocean762.tsv": "train",
    "asr_fsdd.tsv": "train",
}


def tables(data: Path, out: Path) -> None:
    """Manifests of the labelled subsets, of the dev and test speakers, and of the unlabeled audio."""
    for split in ("train", "dev", "test"):
        prepare(data / "asr_speechocean762.tsv", out / f"{split}.tsv", where=f"split={split}")
    prepare(data / "asr_librispeech_testother100.tsv", out / "librispeech.tsv")
    rows = list(read_manifest(out / "train.tsv"))
    for name, seconds in SIZES.items():
        write_manifest(subset(rows, seconds), out / f"train-{name}.tsv")
    audio = []
    for number, (table, split) in enumerate(UNLABELED.items()):
        prepare(data / table, out / f"unlabeled-{number}.tsv", where=f"split={split}")
        audio += [replace(row, text="", label="") for row in read_manifest(out / f"unlabeled-{number}.tsv")]
    write_manifest(audio, out / "unlabeled.tsv")


def subset(rows: list[Utterance], seconds: float) -> list[Utterance]:
    """The first `seconds` of a fixed shuffle, so that the small sets are parts of the large ones."""
    order = np.random.default_rng(0).permutation(len(rows))
    ends = np.cumsum([rows[i].duration for i in order])
    return [rows[i] for i, end in zip(order, ends, strict=True) if end <= seconds]


def command(*words: object) -> list[str]:
    """A speechssl command as a user would type it."""
    return [sys.executable, "-m", "speechssl", *map(str, words)]


def run(words: list[str], log: Path) -> None:
    """Run a command with one thread, its output in a file; a failure names the file."""
    with open(log, "a", encoding="utf-8") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if subprocess.run(words, stdout=file, stderr=file, env=environment).returncode:
            raise SystemExit(f"failed, see {log}")


def finetune(out: Path, init: str, size: str, start: str, seed: int) -> None:
    """One arm: fine-tune, then score on both test sets."""
    folder = out / "runs" / f"{start}-{size}-{seed}"
    log = folder.parent / f"{folder.name}.log"
    folder.parent.mkdir(exist_ok=True)
    if not (folder / "librispeech" / "scores.json").exists():
        words = ["finetune", HERE.parent / "small" / "finetune.toml", "--init", init]
        words += ["--train", out / f"train-{size}.tsv", "--valid", out / "dev.tsv", "--out", folder, "--resume"]
        words += ["--train.seed", seed]
        words += ["--train.steps", UPDATES, "--data.workers", 0]
        run(command(*words, *(["--from-scratch"] if start == "random" else [])), log)
        for test in ("test", "librispeech"):
            run(command("evaluate", folder, out / f"{test}.tsv", "--out", folder / test, "--precision", "bf16"), log)
    print(f"{folder.name}: WER {100 * score(folder, 'test', 'wer'):.1f} %", flush=True)


def score(folder: Path, test: str, kind: str) -> float:
    """An error rate that `evaluate` wrote."""
    return json.loads((folder / test / "scores.json").read_text())[kind]["value"]


def results(out: Path) -> list[dict]:
    """One row per labelled set, start and test set: mean and range of the seeds, in %."""
    rows = []
    for size, start, test in product(SIZES, STARTS, ("test", "librispeech")):
        folders = [out / "runs" / f"{start}-{size}-{seed}" for seed in SEEDS]
        row: dict = {"labels": size, "start": start, "test": test}
        for kind in ("wer", "cer"):
            values = [100 * score(folder, test, kind) for folder in folders]
            row[kind] = {"mean": float(np.mean(values)), "low": min(values), "high": max(values), "seeds": values}
        rows.append(row)
    (out / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    return rows


def report(out: Path) -> None:
    """The table in Markdown, and the learning curves."""
    from speechssl.score.report import plot_curves

    print("| labels | start | test set | WER: mean (range of 3 seeds) | CER |\n|---|---|---|---|---|")
    for row in results(out):
        rates = [f"{row[k]['mean']:.1f} ({row[k]['low']:.1f} ... {row[k]['high']:.1f})" for k in ("wer", "cer")]
        print(f"| {row['labels']} | {row['start']} | {row['test']} | {rates[0]} | {rates[1]} |")
    runs = {f"{start}, {size}": out / "runs" / f"{start}-{size}-1" for size, start in product(SIZES, STARTS)}
    figure = plot_curves(runs, {"wer": "WER of the dev speakers", "cer": "CER of the dev speakers"}, split="valid")
    figure.savefig(out / "curves.png", dpi=120, bbox_inches="tight")


def main() -> None:
    """Pretrain if asked to, fine-tune every arm, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--init", default="", help="a pretrained model (default: pretrain one in OUT/pretrained)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="fine-tunings at once (default: one per core)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "unlabeled.tsv").exists():
        tables(args.data, args.out)
    init = args.init or str(args.out / "pretrained")
    if not args.init:
        words = ["pretrain", HERE.parent / "small" / "pretrain.toml", "--train", args.out / "unlabeled.tsv"]
        words += ["--valid", args.out / "dev.tsv", "--out", init, "--resume"]
        run(command(*words), args.out / "pretrain.log")
    with ThreadPoolExecutor(args.jobs) as pool:
        arms = product(SEEDS, reversed(SIZES), STARTS)
        list(pool.map(lambda arm: finetune(args.out, init, arm[1], arm[2], arm[0]), arms))
    report(args.out)


if __name__ == "__main__":
    main()
