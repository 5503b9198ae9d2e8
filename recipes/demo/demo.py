"""The whole journey on the clips in data/, ending in one HTML page.

    python recipes/demo/demo.py [--out demo] [--minutes 4]

Prepare, cluster, pretrain for some minutes, fine-tune with CTC on spoken digits of four speakers from three starting points
(random weights, these minutes of pretraining, and with two seeds the weights that ship with the package), and score all of
them on a speaker who is in no training set. Whatever needs no pretraining is fine-tuned beside it, one core for each run.
Every number on the page is computed here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Semaphore

import numpy as np
import torch
from page import Scores, described, write_page

from speechssl.core.errors import InputError
from speechssl.core.memory import forget_shapes, keep_freed_memory
from speechssl.core.progress import Progress
from speechssl.data.manifest import write_manifest
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from speechssl.models.protocol import Encoder
from speechssl.score.evaluate import evaluate
from speechssl.score.metrics import Result
from speechssl.score.probe import probe, probe_vectors
from speechssl.score.watch import AbxWatch
from speechssl.sound import audio
from speechssl.sound.features import log_mel_statistics
from speechssl.text.lexicon import Lexicon
from speechssl.text.search import Search
from speechssl.train.recipe import parse_recipe
from speechssl.train.run import Paths, train
from speechssl.use.api import load
from speechssl.use.cluster import cluster
from speechssl.use.embed import embed_to_parquet

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes" / "small"
SEEDS = (1, 2)
TAKES = 8  # labelled recordings of each digit and speaker
UPDATES_PER_MINUTE = 120  # of pretraining, about, on one core beside other runs


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A starting point of fine-tuning. init: the model whose sizes and, unless `scratch`, whose weights are used. seeds: a run
    each."""

    name: str
    init: str
    scratch: bool = False
    seeds: tuple[int, ...] = (1,)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, run the journey, print the path of the page as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all results (default: demo)")
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="of pretraining, on one core (default: 4; the rest takes about 10)"
    )
    args = parser.parse_args(argv)
    keep_freed_memory()
    forget_shapes()
    try:
        print(demo(args.out, args.minutes).resolve())
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def demo(out: Path, minutes: float = 4.0) -> Path:
    """Run the journey into the folder `out`, pretraining for about `minutes`; returns the path of the page."""
    began = time.perf_counter()
    if not (ROOT / "data" / "fsdd.tsv").exists():
        raise InputError(f"the demo needs the clips in {ROOT / 'data'}; run it from a checkout of the repository")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifests" / "unlabeled.tsv").exists():
        raise InputError(f"{out} holds something else than an earlier demo; choose an empty --out")
    for old in (out / "pretrained", out / "finetuned"):  # of an earlier demo
        shutil.rmtree(old, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    report("1/6  prepare manifests of the clips in data/")
    tables = prepare_all(out)
    scratch = Arm(name="random weights", init="small", scratch=True)
    here = Arm(name="pretrained here", init=str(out / "pretrained"))
    shipped = Arm(name="shipped weights", init="small", seeds=SEEDS)
    arms = (scratch, here, shipped)
    report(
        f"2/6  cluster and pretrain a small HuBERT for about {minutes:g} minutes on {minutes_of(tables['unlabeled'])}"
    )
    with FineTuning(out, tables) as tuning:
        with tuning.one_core_less():
            tuning.start(shipped)
            tuning.start(scratch)
            phones = pretrain_here(out, tables["unlabeled"], minutes)
        tuning.start(here)
        report(f"3/6  fine-tune with CTC on {minutes_of(tables['labelled'])}, partly done by now")
        tuning.finish()
    report("4/6  evaluate on a speaker who is in no training set")
    scores = evaluate_all(out, arms, tables)
    report("5/6  embed and probe: classify the digit from frozen embeddings, on unseen speakers")
    probes = probe_all(out, arms, tables["digits"])
    report("6/6  write the page")
    runs = {arm.name: run_folder(out, arm, arm.seeds[0]) for arm in arms}
    page = write_page(out, runs, scores, probes, phones, tables, time.perf_counter() - began)
    report(f"done in {(time.perf_counter() - began) / 60:.1f} minutes; open the page:")
    return page


def report(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def minutes_of(manifest: Path) -> str:
    """The amount of audio that a manifest lists."""
    return f"{read_manifest(manifest).durations.sum() / 60:.1f} minutes of audio"


def prepare_all(out: Path) -> dict[str, Path]:
    """Manifests: voices without labels, and digits for training, for choosing the checkpoint and for testing."""
    tables = {}
    for name, source, where in (
        ("voices", "librispeech.tsv", ""),
        ("train", "fsdd.tsv", "split=train"),
        ("dev", "fsdd.tsv", "split=dev"),
        ("test", "fsdd.tsv", "split=test"),
        ("digits", "fsdd.tsv", ""),
    ):
        tables[name] = out / "manifests" / f"{name}.tsv"
        print(prepare(ROOT / "data" / source, tables[name], where=where))
    digits = list(read_manifest(tables["train"]))
    unlabeled = [replace(row, text="", label="") for row in (*read_manifest(tables["voices"]), *digits)]
    tables["unlabeled"] = out / "manifests" / "unlabeled.tsv"
    write_manifest(unlabeled, tables["unlabeled"])
    tables["labelled"] = out / "manifests" / "labelled.tsv"
    write_manifest([row for row in digits if int(row.id.rpartition("_")[2]) < TAKES], tables["labelled"])
    return tables


def pretrain_here(out: Path, unlabeled: Path, minutes: float) -> dict[str, float]:
    """Pretrain by the recipe of the shipped weights, but only for some minutes; returns the ABX errors (the least of the layers)
    of random weights, of the result and of the shipped weights. ABX is measured along the way, and chooses nothing."""
    codes, steps = out / "codes.parquet", max(50, int(minutes * UPDATES_PER_MINUTE))
    print(cluster(None, [unlabeled], codes, method="gmm"))
    overrides = {"train.steps": steps, "train.log_every": 10, "train.save_every": 100_000}
    overrides |= {"train.valid_every": -(-steps // 3), "objective.growing": steps // 2}
    words = [f"--{key}={value}" for key, value in overrides.items()]
    recipe = parse_recipe("pretrain", RECIPES / "hubert.toml", [*words, "--objective.codes", str(codes)])
    phones = AbxWatch(ROOT / "data" / "librispeech_abx.item", ROOT / "data" / "librispeech_abx")

    def measure(model: Encoder) -> dict[str, float]:
        return {name: value for name, value in phones(model).items() if name != "layer"}

    run = out / "pretrained"
    if train(recipe, Paths(train=[unlabeled], out=run), measure).step < steps:
        sys.exit(130)  # stopped by ctrl-C or SIGTERM, which the training catches to save its state
    models = {
        "random weights": load(run).untrained(SEEDS[0]),
        "pretrained here": load(run),
        "shipped weights": load("small"),
    }
    errors = {name: phones(model.model)["abx"] for name, model in models.items()}
    for name, error in errors.items():
        report(f"  {name:20s} phones mistaken for another (ABX) {100 * error:.1f} %   (chance 50 %)")
    return errors


def run_folder(out: Path, arm: Arm, seed: int) -> Path:
    """The run folder of one fine-tuning."""
    return out / "finetuned" / f"{arm.name.replace(' ', '-')}-{seed}"


class FineTuning:
    """Fine-tunings in the background with the same recipe: as many at once as there are free cores, one thread each."""

    def __init__(self, out: Path, tables: dict[str, Path]) -> None:
        self.out, self.tables = out, tables
        cores = os.cpu_count() or 1
        self.pool, self.cores, self.runs = ThreadPoolExecutor(cores), Semaphore(cores), []
        (out / "finetuned").mkdir(exist_ok=True)

    def __enter__(self) -> "FineTuning":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    @contextmanager
    def one_core_less(self) -> Iterator[None]:
        """Keep one core for the caller, who uses one thread meanwhile."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with self.cores:
            yield
        torch.set_num_threads(threads)

    def start(self, arm: Arm) -> None:
        """Queue a run for each seed of an arm."""
        self.runs += [self.pool.submit(self.run, arm, seed) for seed in arm.seeds]

    def finish(self) -> None:
        """Wait for all runs; InputError names the log of the first that fails."""
        with Progress(len(self.runs), "run", "fine-tune") as bar:
            for run in as_completed(self.runs):
                run.result()
                bar.update()

    def run(self, arm: Arm, seed: int) -> None:
        """Run the command that a user would type, in a process of its own; InputError names the log if it fails."""
        folder = run_folder(self.out, arm, seed)
        command = [sys.executable, "-m", "speechssl", "finetune", str(RECIPES / "digits.toml"), "--init", arm.init]
        command += ["--train", str(self.tables["labelled"]), "--valid", str(self.tables["dev"]), "--out", str(folder)]
        command += ["--train.seed", str(seed), *(["--from-scratch"] if arm.scratch else [])]
        log = folder.with_suffix(".log")
        with self.cores, open(log, "w", encoding="utf-8") as file:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            if subprocess.run(command, stdout=file, stderr=file, env=environment).returncode:
                raise InputError(f"fine-tuning failed, see {log}")


def evaluate_all(out: Path, arms: Sequence[Arm], tables: dict[str, Path]) -> dict[str, list[Scores]]:
    """Scores of every arm and seed on the test speaker, greedily decoded, and with the words of the training data as lexicon."""
    words = Search(lexicon=Lexicon(read_manifest(tables["labelled"]).column("text")))
    scores: dict[str, list[Scores]] = {}
    for arm in arms:
        models = [load(run_folder(out, arm, seed)) for seed in arm.seeds]
        scores[arm.name] = [Scores(*(evaluate(m, tables["test"], search=how) for how in (None, words))) for m in models]
        report(
            f"  {arm.name:16s} " + "   ".join(f"{name} {rate}" for name, rate in described(scores[arm.name]).items())
        )
    return scores


def probe_all(out: Path, arms: Sequence[Arm], digits: Path) -> dict[str, Result]:
    """Linear probes over folds of unseen speakers: log-mel statistics, random weights, both pretrained models."""
    rows = read_manifest(digits)
    labels, speakers = np.array(rows.column("label")), np.array(rows.column("speaker"))
    statistics = np.stack([log_mel_statistics(audio.load(row.path)) for row in rows])
    results = {"log-mel statistics": probe_vectors({"vector": statistics}, labels, speakers, label="label", folds=6)}
    for arm in arms:
        model = load(arm.init).untrained(SEEDS[0]) if arm.scratch else load(arm.init)
        table = out / f"embeddings-{arm.name.replace(' ', '-')}.parquet"
        embed_to_parquet(model, [digits], table, pool="mean+max")
        results[arm.name] = probe(table, folds=6)
    for name, result in results.items():
        best = result.scores[0]
        report(f"  {name:20s} accuracy {100 * best.accuracy:.1f} %   UAR {100 * best.uar:.1f} %   (chance 10 %)")
    return results


if __name__ == "__main__":
    main()
