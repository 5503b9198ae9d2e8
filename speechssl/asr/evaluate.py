"""WER and CER of a model on a manifest of transcribed audio."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speechssl import audio
from speechssl.asr.decode import best_path_text
from speechssl.asr.metrics import Scores, score
from speechssl.asr.transcribe import transcribe
from speechssl.data.loader import valid_micros
from speechssl.data.manifest import Manifest, Utterance, read_manifest
from speechssl.files import output_folder, replacing


def evaluate(
    model: Any, manifest: Path, *, where: str = "", normaliser: str = "basic", out: Path | None = None
) -> Scores:
    """Score `model` on the transcribed rows of `manifest`; `out` gets scores.json and hypotheses.tsv."""
    rows = read_manifest(manifest).where(where)
    model.require_tokenizer()
    if out is not None:
        output_folder(out)
    hypotheses = transcribe_manifest(model, rows)
    scores = score(
        rows.column("text"),
        hypotheses,
        ids=rows.column("id"),
        speakers=rows.column("speaker"),
        normaliser=normaliser,
    )
    if out is not None:
        lines = [f"{i}\t{t}\t{h}" for i, t, h in zip(rows.column("id"), rows.column("text"), hypotheses, strict=True)]
        table, numbers = "\n".join(["id\treference\thypothesis", *lines]), asdict(scores)
        for name, text in (
            ("hypotheses.tsv", table),
            ("scores.json", json.dumps(numbers, ensure_ascii=False, indent=2)),
        ):
            with replacing(out / name) as draft:
                draft.write_text(text + "\n", "utf-8")
    return scores


def transcribe_manifest(model: Any, rows: Manifest, batch_seconds: float = 60.0) -> list[str]:
    """Greedy text of every row: many short rows per batch, rows longer than a batch in windows. A row too short for one
    frame gives an empty text; rows whose audio cannot be read are an error, for a score must not depend on which files
    happened to open."""
    texts: list[str] = []
    seconds_R = np.array([audible(row) for row in rows])
    with tqdm(total=round(float(seconds_R.sum()), 1), unit="s audio", desc="evaluate", leave=False) as bar:
        for micro in valid_micros(seconds_R, batch_seconds):
            chosen = [rows[i] for i in micro.rows]
            if len(chosen) == 1 and seconds_R[micro.rows[0]] > batch_seconds:
                row = chosen[0]
                texts.append(transcribe(model, row.path, start=row.start, duration=known(row.duration)).text)
            else:
                texts += transcribe_batch(model, chosen)
            bar.update(float(seconds_R[list(micro.rows)].sum()))
    return texts


def transcribe_batch(model: Any, rows: list[Utterance]) -> list[str]:
    """Greedy text of short rows in one packed batch."""
    waves = [audio.load(row.path, start=row.start, duration=known(row.duration)) for row in rows]
    texts = [""] * len(waves)
    long = [i for i, wave in enumerate(waves) if len(wave) >= model.config.geometry.receptive_field]
    found = model.log_probs([waves[i] for i in long]) if long else []
    for i, log_probs_TV in zip(long, found, strict=True):
        texts[i] = best_path_text(log_probs_TV, model.tokenizer)
    return texts


def audible(row: Utterance) -> float:
    """Seconds of a row; where the manifest has none, the file is asked."""
    return audio.info(row.path).duration - row.start if np.isnan(row.duration) else row.duration


def known(duration: float) -> float | None:
    """A duration, or None where the manifest has none."""
    return None if np.isnan(duration) else duration
