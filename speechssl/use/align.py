"""`speechssl align`: word and letter times of given transcripts."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from speechssl.core import progress
from speechssl.core.errors import InputError
from speechssl.core.files import output_file, output_folder, replacing
from speechssl.core.lines import read_lines
from speechssl.core.progress import Progress
from speechssl.data.channels import segment_of
from speechssl.data.sources import inside, rows_of
from speechssl.text.align import align
from speechssl.text.formats import write
from speechssl.text.transcript import Transcript
from speechssl.use.language import normaliser_of
from speechssl.use.transcribe import posteriors


def align_clip(model: Any, source: Any, text: str, **options: Any) -> Transcript:
    """The times of the words of `text` in a clip of any length, which is spelled as in the model's training; digits and other
    characters that it does not know take whatever is likeliest there. options: as in transcribe. InputError if the text is
    longer than the clip."""
    model.require_tokenizer()
    normal = normaliser_of(model, "auto", {})
    words = [(word, normal(word)) for word in text.split()]
    if not any(spelled for _, spelled in words):
        raise InputError(f"{source}: its text {text[:40]!r} has no word to align")
    log_probs_TV = torch.cat(posteriors(model, source, **options))
    found = align(log_probs_TV, words, model.tokenizer, model.config.letters, model.silence)
    if found is None:
        seconds = len(log_probs_TV) * model.config.letters.hop / 16_000
        raise InputError(
            f"{source}: a text of {len(text)} letters does not fit into {seconds:.1f} s; is it another clip's?"
        )
    return found


def align_files(
    model: Any,
    sources: Sequence[Path],
    *,
    where: str | Sequence[str] = "",
    text: Path | None = None,
    style: str = "TextGrid",
    out: Path | None = None,
) -> int:
    """Align the rows of tables and folders that have a transcript, or one recording with the text in a file; print or write
    into `out`. Times count from the beginning of the row. Returns how many failed (each is reported)."""
    found = rows_of(sources, where)
    rows = [row for row in found if row.text]
    if text is not None:
        if len(found) != 1:
            raise InputError(f"--text is that of one recording, and {len(found)} are given; list them in a table")
        rows = [replace(found[0], text=" ".join(read_lines(text)))]
    if not rows:
        raise InputError(
            f"{', '.join(map(str, sources))}: no row has a transcript; give a table or folder with texts, or --text"
        )
    if len(rows) < len(found):
        print(f"align: {len(found) - len(rows)} of {len(found)} rows have no transcript", file=sys.stderr)
    names = [inside(row.id).removesuffix(Path(row.path).suffix) for row in rows]
    if out is not None and len(set(names)) < len(names):
        double = next(name for name, number in Counter(names).items() if number > 1)
        raise InputError(f"two recordings would both become {double}.{style}; give each its own --out")
    if out is None and len(rows) > 1:
        raise InputError(f"{len(rows)} recordings do not fit into one {style}; name a folder for them with --out")
    folder, failed = None if out is None else output_folder(out), 0
    with Progress(len(rows), "row", "align", show=len(rows) > 1) as bar:
        for row, name in zip(rows, names, strict=True):
            try:
                aligned = align_clip(model, row.path, row.text, **segment_of(row))
            except InputError as error:
                failed += 1
                progress.write(f"error: {error}")
            else:
                page = write(aligned, style, Path(row.path).name)
                if folder is None:
                    progress.write(page, sys.stdout, end="")
                else:
                    with replacing(output_file(folder / f"{name}.{style}", "x")) as draft:
                        draft.write_text(page, encoding="utf-8")
            bar.update()
    return failed
