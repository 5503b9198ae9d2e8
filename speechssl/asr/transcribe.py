"""Transcribe audio of any length in constant memory: overlapping windows, of which only the middles are kept."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from speechssl.asr.decode import Transcript, spell, write
from speechssl.errors import InputError
from speechssl.files import output_folder, replacing
from speechssl.windows import windows


def transcribe(model: Any, source: Any, **options: Any) -> Transcript:
    """Text and word times of one clip: path, file object, array or tensor; options as in speechssl.windows.windows.

    Of a long clip the frames are computed window by window and decoded once, so no word is cut. Only the best character of
    every frame is kept, so memory does not grow with the vocabulary.
    """
    geometry = model.config.geometry
    best = [model.log_probs([wave_S])[0][rows].max(dim=1) for wave_S, rows in windows(source, geometry, **options)]
    if not best:
        name = "the array" if hasattr(source, "__len__") and not isinstance(source, str) else source
        raise InputError(f"{name} is shorter than one frame (25 ms); there is nothing to transcribe")
    scores_T, tokens_T = (torch.cat(parts) for parts in zip(*best, strict=True))
    return spell(tokens_T, scores_T.exp(), model.tokenizer, geometry)


def transcribe_files(model: Any, files: Sequence[Path], *, style: str = "txt", out: Path | None = None) -> int:
    """Transcribe files one after the other, printing or writing into `out`; returns how many failed (each is named)."""
    model.require_tokenizer()
    if out is not None:
        output_folder(out)
        refuse_equal_names(files, style)
    failed = 0
    with tqdm(total=len(files), unit="file", desc="transcribe", disable=len(files) == 1) as bar:
        for file in files:
            try:
                text = write(transcribe(model, file), style)
                if out is not None:
                    with replacing(out / f"{file.stem}.{style}") as draft:
                        draft.write_text(text, encoding="utf-8")
                else:
                    bar.clear()
                    print(f"{file}: {text}" if style == "txt" and len(files) > 1 else text, end="", flush=True)
            except InputError as error:
                failed += 1
                bar.clear()
                print(f"error: {error}", file=sys.stderr)
            bar.update()
    return failed


def refuse_equal_names(files: Sequence[Path], style: str) -> None:
    """InputError when the transcripts of two files would overwrite each other."""
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.stem, file)
        if other is not file:
            raise InputError(f"{other} and {file} would both become {file.stem}.{style}; give each an --out of its own")
