"""Transcribe audio of any length in constant memory: overlapping windows, of which only the middles are kept."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from speechssl import audio
from speechssl.asr.decode import Transcript, greedy, write
from speechssl.errors import InputError


def transcribe(
    model: Any, source: Any, *, sample_rate: int | None = None, window: float = 30.0, context: float = 2.0
) -> Transcript:
    """Text and word times of one clip: path, file object, array or tensor (`sample_rate` of an array; None: 16 kHz).

    Audio longer than `window` seconds is read in windows with `context` seconds on either side; their posteriors are
    joined at frame boundaries and decoded once, so no word is cut.
    """
    if isinstance(source, (str, Path)) and audio.info(source).duration > window:
        pieces = windows_of_file(Path(source), window, context)
    else:
        pieces = windows_of_array(audio.load(source, sample_rate=sample_rate), window, context)
    geometry = model.config.geometry
    posteriors = []
    for wave_S, before, kept in pieces:
        if len(wave_S) < geometry.receptive_field:
            continue  # less than one frame at the very end
        log_probs_TV = model.log_probs([wave_S])[0]
        posteriors.append(log_probs_TV[before // geometry.hop :][: kept // geometry.hop if kept else None])
    if not posteriors:
        raise InputError(f"{source} is shorter than one frame (25 ms); there is nothing to transcribe")
    return greedy(torch.cat(posteriors), model.tokenizer, geometry)


def plan(samples: int | None, window: float, context: float) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, context before, samples kept or 0 for the rest) of each window, multiples of the 20 ms hop."""
    size, margin = (round(seconds * audio.SAMPLE_RATE) // 320 * 320 for seconds in (window, context))
    start = 0
    while samples is None or start < samples:
        first = max(0, start - margin)
        last = samples is not None and start + size >= samples
        yield first, start + size + margin if not last else samples or 0, start - first, 0 if last else size
        if last:
            return
        start += size


def windows_of_array(wave_S: np.ndarray, window: float, context: float) -> Iterator[tuple[np.ndarray, int, int]]:
    """(window with context, samples of context before, samples to keep) of a wave."""
    for first, stop, before, kept in plan(len(wave_S), window, context):
        yield wave_S[first:stop], before, kept


def windows_of_file(path: Path, window: float, context: float) -> Iterator[tuple[np.ndarray, int, int]]:
    """The same, reading only one window at a time."""
    samples = int(audio.info(path).duration * audio.SAMPLE_RATE)
    for first, stop, before, kept in plan(samples, window, context):
        rate = audio.SAMPLE_RATE
        yield audio.load(path, start=first / rate, duration=(stop - first) / rate), before, kept


def transcribe_files(model: Any, files: Sequence[Path], *, style: str = "txt", out: Path | None = None) -> int:
    """Transcribe files one after the other, printing or writing into `out`; returns how many failed (each is named)."""
    model.log_probs([np.zeros(audio.SAMPLE_RATE, np.float32)])  # a model that cannot transcribe is told before any file
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tqdm(total=len(files), unit="file", desc="transcribe", disable=len(files) == 1) as bar:
        for file in files:
            try:
                text = write(transcribe(model, file), style)
                if out is not None:
                    (out / f"{file.stem}.{style}").write_text(text, encoding="utf-8")
                else:
                    bar.clear()
                    print(f"{file}: {text}" if style == "txt" and len(files) > 1 else text, end="", flush=True)
            except InputError as error:
                failed += 1
                bar.clear()
                print(f"error: {error}", file=sys.stderr)
            bar.update()
    return failed
