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
from speechssl.data.loader import valid_micros
from speechssl.data.manifest import Manifest, read_manifest
from speechssl.errors import InputError


def evaluate(
    model: Any, manifest: Path, *, where: str = "", normaliser: str = "basic", out: Path | None = None
) -> Scores:
    """Score `model` on the transcribed rows of `manifest`; `out` gets scores.json and hypotheses.tsv."""
    rows = read_manifest(manifest)
    if where:
        name, _, value = where.partition("=")
        rows = rows.where(**{name: value})
    hypotheses = transcribe_manifest(model, rows)
    scores = score(
        rows.column("text"),
        hypotheses,
        ids=rows.column("id"),
        speakers=rows.column("speaker"),
        normaliser=normaliser,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(json.dumps(asdict(scores), ensure_ascii=False, indent=2) + "\n", "utf-8")
        lines = [f"{i}\t{t}\t{h}" for i, t, h in zip(rows.column("id"), rows.column("text"), hypotheses, strict=True)]
        (out / "hypotheses.tsv").write_text("\n".join(["id\treference\thypothesis", *lines]) + "\n", "utf-8")
    return scores


def transcribe_manifest(model: Any, rows: Manifest, batch_seconds: float = 60.0) -> list[str]:
    """Greedy text of every row, many short rows per batch. A row too short for one frame gives an empty text; rows whose
    audio cannot be read are an error, for a score must not depend on which files happened to open."""
    texts: list[str] = []
    with tqdm(total=round(float(np.nansum(rows.durations)), 1), unit="s audio", desc="evaluate", leave=False) as bar:
        for micro in valid_micros(np.nan_to_num(rows.durations, nan=10.0), batch_seconds):
            chosen = [rows[i] for i in micro.rows]
            waves = [audio.load(r.path, start=r.start, duration=known(r.duration)) for r in chosen]
            long = [i for i, wave in enumerate(waves) if len(wave) >= model.config.geometry.receptive_field]
            found = model.log_probs([waves[i] for i in long]) if long else []
            batch = [""] * len(waves)
            for i, log_probs_TV in zip(long, found, strict=True):
                batch[i] = best_path_text(log_probs_TV, require_tokenizer(model))
            texts += batch
            bar.update(sum(map(len, waves)) / audio.SAMPLE_RATE)
    return texts


def known(duration: float) -> float | None:
    """A duration, or None where the manifest has none."""
    return None if np.isnan(duration) else duration


def require_tokenizer(model: Any) -> Any:
    """The model's tokenizer; InputError if it has none."""
    if model.tokenizer is None:
        raise InputError(f"{model.source} has no vocabulary; fine-tune it with CTC first")
    return model.tokenizer
