"""The page of the demo: tables, learning curves, clips to listen to, a map of the embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechssl.data.tables import read_manifest
from speechssl.score import report
from speechssl.score.metrics import Result, percent
from speechssl.score.wer import ErrorRates
from speechssl.sound import audio
from speechssl.use.api import SpeechModel, load


class Scores(NamedTuple):
    """Those of a fine-tuned model on the test speaker: greedily decoded, and with the ten words as lexicon."""

    greedy: ErrorRates
    lexicon: ErrorRates


def write_page(
    out: Path,
    runs: dict[str, Path],
    scores: dict[str, list[Scores]],
    probes: dict[str, Result],
    phones: dict[str, float],
    tables: dict[str, Path],
    seconds: float,
) -> Path:
    """Write OUT/report.html. runs, scores, phones: by starting point, the folder of the first seed, the scores of all seeds, and
    the ABX error before fine-tuning."""
    best = min(runs, key=lambda name: np.mean([s.greedy.wer.value for s in scores[name]]))
    model = load(runs[best])
    size = sum(p.numel() for p in model.model.parameters()) / 1e6
    unlabeled, labelled = (read_manifest(tables[name]).durations.sum() / 60 for name in ("unlabeled", "labelled"))
    page = report.Page("speechssl: from unlabeled speech to transcripts")
    page.text(
        f"A small HuBERT ({size:.1f} M weights) learned from {unlabeled:.1f} minutes of audio without labels, then from "
        f"{labelled:.1f} minutes of spoken digits by four speakers. Everything ran on this machine in {seconds / 60:.1f} minutes."
    )
    page.heading("Does pretraining help? Digits of an unseen speaker")
    show_scores(page, scores, best)
    page.heading("What pretraining learns: phones")
    page.table([{"weights": name, "ABX error": f"{100 * error:.1f} %"} for name, error in phones.items()])
    page.text(
        "How often a token of a phone is closer to one of another phone than to one of the same (chance: 50 %): LibriSpeech "
        "test-other, the mean of within and across speakers, the best layer of each model. No label was used in pretraining.",
        note=True,
    )
    page.heading("Learning curves")
    show_curves(page, out / "pretrained", runs)
    page.heading("Clips the model was not trained on")
    show_clips(page, model, tables["test"])
    page.heading("What the embeddings know")
    page.table([probe_row(name, result) for name, result in probes.items()])
    page.text(
        "Linear probe for the digit over folds of unseen speakers (6 folds), 95 % interval over speakers.", note=True
    )
    show_map(page, out / "embeddings-shipped-weights.parquet")
    return page.save(out / "report.html")


def percent_and_range(values: Sequence[float]) -> str:
    """Mean and range of the seeds, in %; of one seed only its value."""
    percent = [100 * value for value in values]
    spread = f" ({min(percent):.1f} ... {max(percent):.1f})" if len(percent) > 1 else ""
    return f"{np.mean(percent):.1f} %{spread}"


def described(seeds: Sequence[Scores]) -> dict[str, str]:
    """The error rates of a starting point, by their names."""
    return {
        "WER": percent_and_range([seed.greedy.wer.value for seed in seeds]),
        "CER": percent_and_range([seed.greedy.cer.value for seed in seeds]),
        "WER with the ten words as lexicon": percent_and_range([seed.lexicon.wer.value for seed in seeds]),
    }


def show_scores(page: report.Page, scores: dict[str, list[Scores]], best: str) -> None:
    """The error rates of every starting point."""
    page.table([{"start of fine-tuning": name, **described(seeds)} for name, seeds in scores.items()])
    first = scores[best][0].greedy
    page.text(
        f"Test: {first.utterances} clips of one speaker; the checkpoint is chosen on another one. Mean and range of the seeds. "
        f"Greedy CTC decoding without a language model, but in the last column; normaliser '{first.normaliser}'. Same recipe and "
        "updates for every start.",
        note=True,
    )


def show_curves(page: report.Page, pretrained: Path, runs: dict[str, Path]) -> None:
    """Pretraining, and the first seed of each fine-tuning."""
    titles = {"masked": "cross-entropy of the hidden codes (nats)", "accuracy": "codes that are right"}
    figure = report.plot_curves({"pretraining": pretrained}, titles)
    page.figure(
        figure,
        "Pretraining: frames that the network does not see. An even guess costs ln 100 = 4.6 nats; 0.01 are right.",
    )
    figure = report.plot_curves(
        {"pretraining": pretrained}, {"abx": "ABX error", "rank": "effective rank"}, split="valid"
    )
    page.figure(figure, "Pretraining: phones of the best layer, and how many directions its frames use.")
    figure = report.plot_curves(runs, {"wer": "WER of the validation speaker", "cer": "CER"}, split="valid")
    page.figure(figure, "Fine-tuning, first seed.")


def probe_row(name: str, result: Result) -> dict[str, str]:
    """A line of the probe table."""
    score = result.scores[0]
    return {
        "embedding": name,
        "accuracy, %": percent(score.accuracy, score.accuracy_interval),
        "UAR, %": percent(score.uar, score.uar_interval),
        "chance": f"{100 * result.chance_uar:.0f} %",
    }


def show_clips(page: report.Page, model: SpeechModel, test: Path) -> None:
    """Three spectrograms with the transcript under them, and a table of twelve clips to listen to."""
    rows = read_manifest(test)
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, 12).astype(int)]
    found = [model.transcribe(row.path) for row in chosen]
    for row, transcript in list(zip(chosen, found, strict=True))[1:12:5]:
        title = f'spoken by {row.speaker}: "{row.text}"; transcript: "{transcript.text}"'
        figure = report.plot_spectrogram(audio.load(row.path), transcript.words, title)
        page.figure(figure, f"{row.id}, log-mel spectrogram")
    page.table(
        [
            {
                "clip": report.player(row.path),
                "speaker": row.speaker,
                "spoken": row.text,
                "transcript": transcript.text,
            }
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
    page.figure(figure, "Each dot is a clip: t-SNE of the mean and maximum over time of the frames, no labels used.")
