"""`speechssl demo`: the whole journey on the clips in data/, ending in one page.

Prepare, pretrain for some minutes, fine-tune with CTC on spoken digits of four speakers from three starting points (random
weights, these minutes of pretraining, the weights that ship with the package), three seeds each, and score all of them on a
speaker whose recordings no training has seen. Every number on the page is computed here.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speechssl.core.config import load_recipe
from speechssl.core.errors import InputError
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.prepare import prepare
from speechssl.score import report
from speechssl.score.evaluate import evaluate
from speechssl.score.probe import ProbeResult, probe, probe_vectors
from speechssl.score.wer import Scores
from speechssl.sound import audio
from speechssl.train.recipe import FinetuneRecipe, PretrainRecipe
from speechssl.train.run import Paths, pretrain
from speechssl.use.api import SpeechModel, load
from speechssl.use.embed import embed_to_parquet

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "small"
SEEDS = (1, 2, 3)
TAKES = 8  # labelled recordings of each digit and speaker
UPDATES_PER_MINUTE = 200  # of pretraining, about, on two cores


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A starting point of fine-tuning. init: whose sizes, and unless `scratch` whose weights."""

    name: str
    init: str
    scratch: bool = False


def demo(out: Path, minutes: float = 3.0) -> Path:
    """Run the journey into the folder `out`, pretraining for about `minutes`; returns the page's path."""
    began = time.perf_counter()
    if not (ROOT / "data" / "fsdd.tsv").exists():
        raise InputError(f"the demo needs the clips in {ROOT / 'data'}; run it from a checkout of the repository")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifests" / "unlabeled.tsv").exists():
        raise InputError(f"{out} holds something else than an earlier demo; choose an empty --out")
    for old in (out / "pretrained", out / "finetuned"):  # of an earlier demo
        shutil.rmtree(old, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    tables = prepare_all(out)
    arms = (
        Arm(name="random weights", init=str(out / "pretrained"), scratch=True),
        Arm(name="pretrained here", init=str(out / "pretrained")),
        Arm(name="shipped weights", init="small"),
    )
    say(
        f"2/6  pretrain a small wav2vec 2.0 for about {minutes:g} minutes on {hours(tables['unlabeled'])} without labels"
    )
    pretrain_here(out / "pretrained", tables["unlabeled"], minutes)
    say(f"3/6  fine-tune with CTC on {hours(tables['labelled'])}: {len(arms)} starting points x {len(SEEDS)} seeds")
    finetune_all(out, arms, tables)
    say("4/6  evaluate on a speaker that no training has heard")
    scores = evaluate_all(out, arms, tables["test"])
    say("5/6  embed and probe: which digit, told from the frozen embedding of an unseen speaker")
    probes = probe_all(out, arms, tables["digits"])
    say("6/6  write the page")
    page = write_page(out, arms, scores, probes, tables, time.perf_counter() - began)
    say(f"done in {(time.perf_counter() - began) / 60:.1f} minutes; open the page:")
    print(page.resolve())
    return page


def say(text: str) -> None:
    """A stage's headline."""
    print(text, flush=True)


def hours(manifest: Path) -> str:
    """How much audio a manifest lists."""
    return f"{read_manifest(manifest).durations.sum() / 60:.1f} minutes of audio"


def prepare_all(out: Path) -> dict[str, Path]:
    """Manifests of the embedded clips: unlabeled voices, digits for training, for choosing and for testing."""
    say("1/6  prepare manifests of the clips in data/")
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


def pretrain_here(run: Path, unlabeled: Path, minutes: float) -> None:
    """The recipe of the shipped weights, for some minutes only."""
    steps = max(50, int(minutes * UPDATES_PER_MINUTE))
    overrides = ["--train.steps", str(steps), "--train.log_every", "10", "--train.save_every", "100000"]
    overrides += ["--optim.warmup", "0.1"]
    recipe = load_recipe(PretrainRecipe, RECIPES / "pretrain.toml", overrides)
    pretrain(recipe, Paths(train=[unlabeled], out=run))


def run_folder(out: Path, arm: Arm, seed: int) -> Path:
    """Where one fine-tuning goes."""
    return out / "finetuned" / f"{arm.name.replace(' ', '-')}-{seed}"


def finetune_all(out: Path, arms: Sequence[Arm], tables: dict[str, Path]) -> None:
    """Every arm and seed with the same recipe; as many at once as there are cores, one thread each."""
    waiting = [(arm, seed) for seed in SEEDS for arm in arms]
    steps = finetune_steps()
    running: list[tuple[subprocess.Popen, Path]] = []
    finished = 0
    with tqdm(total=len(waiting) * steps, unit="update", desc="fine-tune") as bar:
        while waiting or running:
            while waiting and len(running) < max(1, os.cpu_count() or 1):
                arm, seed = waiting.pop(0)
                folder = run_folder(out, arm, seed)
                running.append((start_finetuning(folder, arm, seed, tables), folder))
            time.sleep(0.5)
            for process, folder in [pair for pair in running if pair[0].poll() is not None]:
                if process.returncode:
                    raise InputError(f"fine-tuning failed, see {folder.with_suffix('.log')}")
                running.remove((process, folder))
                finished += 1
            bar.n = finished * steps + sum(last_step(folder) for _, folder in running)
            bar.refresh()


def finetune_steps() -> int:
    """Updates of one fine-tuning."""
    return load_recipe(FinetuneRecipe, RECIPES / "digits.toml").train.steps


def start_finetuning(folder: Path, arm: Arm, seed: int, tables: dict[str, Path]) -> subprocess.Popen:
    """One fine-tuning as a process of its own, by the command that a user would type."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "speechssl", "finetune", str(RECIPES / "digits.toml"), "--init", arm.init]
    command += ["--train", str(tables["labelled"]), "--valid", str(tables["dev"]), "--out", str(folder)]
    command += ["--train.seed", str(seed), *(["--from-scratch"] if arm.scratch else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def last_step(folder: Path) -> int:
    """The newest update in a run's log."""
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def evaluate_all(out: Path, arms: Sequence[Arm], test: Path) -> dict[str, list[Scores]]:
    """Scores of every arm and seed on the test speakers."""
    scores: dict[str, list[Scores]] = {}
    for arm in arms:
        scores[arm.name] = [evaluate(load(run_folder(out, arm, seed)), test) for seed in SEEDS]
        wer, cer = ([getattr(s, kind).value for s in scores[arm.name]] for kind in ("wer", "cer"))
        say(f"  {arm.name:16s} WER {spread(wer)}   CER {spread(cer)}")
    return scores


def spread(values: Sequence[float]) -> str:
    """Mean and range of the seeds, in %."""
    percent = [100 * value for value in values]
    return f"{np.mean(percent):.1f} % ({min(percent):.1f} ... {max(percent):.1f})"


def probe_all(out: Path, arms: Sequence[Arm], digits: Path) -> dict[str, ProbeResult]:
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
        say(f"  {name:20s} accuracy {100 * best.accuracy:.1f} %   UAR {100 * best.uar:.1f} %   (chance 10 %)")
    return results


def log_mel_statistics(wave_S: np.ndarray) -> np.ndarray:
    """Mean and maximum of 64 log-mel bands: the baseline without any network."""
    import librosa

    mel_FT = librosa.feature.melspectrogram(y=wave_S, sr=audio.SAMPLE_RATE, n_fft=400, hop_length=320, n_mels=64)
    log_FT = np.log(mel_FT + 1e-6)
    return np.concatenate([log_FT.mean(axis=1), log_FT.max(axis=1)])


def write_page(out: Path, arms, scores, probes, tables: dict[str, Path], seconds: float) -> Path:
    """The report."""
    best = min(arms, key=lambda arm: np.mean([s.wer.value for s in scores[arm.name]]))
    model = load(run_folder(out, best, SEEDS[0]))
    page = report.Page("speechssl: from unlabeled speech to transcripts")
    page.text(
        f"A small wav2vec 2.0 ({sum(p.numel() for p in model.model.parameters()) / 1e6:.1f} M weights) learned from "
        f"{hours(tables['unlabeled'])} without labels, then from {hours(tables['labelled'])} of spoken digits by four "
        f"speakers. All of it ran on this machine in {seconds / 60:.1f} minutes."
    )
    page.heading("Does pretraining help? Digits of a speaker nobody has heard")
    page.table(
        [
            {
                "start of fine-tuning": arm.name,
                "WER: mean (range of 3 seeds)": spread([s.wer.value for s in scores[arm.name]]),
                "CER": spread([s.cer.value for s in scores[arm.name]]),
            }
            for arm in arms
        ]
    )
    first = scores[best.name][0]
    page.text(
        f"Test: {first.utterances} clips of one speaker; the checkpoint is chosen on another one. Greedy CTC decoding, no "
        f"language model, normaliser '{first.normaliser}'. Same recipe, updates and seeds for every start.",
        note=True,
    )
    page.heading("Learning curves")
    curves = {"pretraining": out / "pretrained"}
    titles = {
        "contrastive": "contrastive loss (nats)",
        "accuracy": "contrastive accuracy",
        "code_perplexity": "code perplexity",
    }
    page.figure(
        report.plot_curves(curves, titles), "Pretraining: chance is ln 101 = 4.62 nats and an accuracy of 0.01."
    )
    tuned = {arm.name: run_folder(out, arm, SEEDS[0]) for arm in arms}
    page.figure(
        report.plot_curves(tuned, {"wer": "WER of the validation speaker", "cer": "CER"}, split="valid"),
        "Fine-tuning, first seed.",
    )
    page.heading("Clips the model was not trained on")
    show_clips(page, model, tables["test"])
    page.heading("What the embeddings know")
    page.table([probe_row(name, result) for name, result in probes.items()])
    page.text(
        "Linear probe for the digit over folds of unseen speakers (6 folds), 95 % interval over speakers.", note=True
    )
    show_map(page, out / "embeddings-shipped-weights.parquet")
    return page.save(out / "report.html")


def probe_row(name: str, result: ProbeResult) -> dict[str, str]:
    """A line of the probe table."""
    s = result.scores[0]
    low, high = s.uar_interval
    return {
        "embedding": name,
        "accuracy": f"{100 * s.accuracy:.1f} %",
        "UAR": f"{100 * s.uar:.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
        "chance": f"{100 * result.chance_uar:.0f} %",
    }


def show_clips(page: report.Page, model: SpeechModel, test: Path) -> None:
    """Spectrograms with the transcript under them, and a table of clips to listen to."""
    rows = read_manifest(test)
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, 12).astype(int)]
    found = [model.transcribe(row.path) for row in chosen]
    for row, transcript in list(zip(chosen, found, strict=True))[1:12:5]:
        title = f'"{row.text}", said by {row.speaker}; heard: "{transcript.text}"'
        page.figure(
            report.plot_spectrogram(audio.load(row.path), transcript.words, title), f"{row.id}, log-mel spectrogram"
        )
    page.table(
        [
            {"clip": report.player(row.path), "speaker": row.speaker, "said": row.text, "heard": transcript.text}
            for row, transcript in zip(chosen, found, strict=True)
        ]
    )


def show_map(page: report.Page, table: Path) -> None:
    """t-SNE of the shipped model's embeddings, coloured by digit and by speaker."""
    import pyarrow.parquet as pq

    columns = pq.read_table(table, columns=["vector", "label", "speaker"]).to_pydict()
    keep = slice(None, None, 2)
    figure = report.plot_embedding_map(
        np.array(columns["vector"])[keep], {"by digit": columns["label"][keep], "by speaker": columns["speaker"][keep]}
    )
    page.figure(
        figure, "Each dot is a clip: t-SNE of the mean and maximum over time of the last layer, no labels used."
    )
