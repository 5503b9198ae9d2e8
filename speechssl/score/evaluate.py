"""WER and CER of a model on a manifest of transcribed audio."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, replacing
from speechssl.data.manifest import Manifest
from speechssl.data.marked import TRAIN, counted, parts_of
from speechssl.data.sources import rows_of
from speechssl.score.wer import ErrorRates, error_rates
from speechssl.text.search import Search
from speechssl.use.language import normaliser_of
from speechssl.use.stream import TooShort
from speechssl.use.transcribe import transcribe_rows


def evaluate(
    model: Any,
    manifest: Path,
    *,
    where: str | Sequence[str] = "",
    normaliser: str = "auto",
    how: dict[str, str] | None = None,
    out: Path | None = None,
    search: Search | None = None,
) -> ErrorRates:
    """Score `model` on the transcribed rows of a table or folder, whatever they are marked as; `out` gets scores.json and
    hypotheses.tsv. normaliser: auto, or one of NORMALISERS. how: its language, digits and points where they are not those of the
    model's training. search: a beam search; None: greedy decoding."""
    rows = rows_of([manifest], where)
    parts_R = parts_of(rows)
    if TRAIN in parts_R and len(set(parts_R)) > 1:
        dist.report(
            f"evaluate: all {len(rows)} rows, by their column split {counted(parts_R)}; --where split=test takes some"
        )
    model.require_tokenizer()
    normal = normaliser_of(model, normaliser, how or {})
    if out is not None:
        output_folder(out)
    hypotheses = transcribe_manifest(model, rows, search=search)
    ids, texts, speakers = (rows.column(name) for name in ("id", "text", "speaker"))
    phones = model.tokenizer.writing.phones
    more: dict[str, Any] = {"decoding": str(search)} if search else {}
    scores = error_rates(texts, hypotheses, ids=ids, speakers=speakers, normaliser=normal, phones=phones, **more)
    if out is not None:
        lines = [f"{i}\t{t}\t{h}" for i, t, h in zip(ids, texts, hypotheses, strict=True)]
        table = "\n".join(["id\treference\thypothesis", *lines])
        numbers = json.dumps(asdict(scores), ensure_ascii=False, indent=2)
        for name, text in (("hypotheses.tsv", table), ("scores.json", numbers)):
            with replacing(out / name) as draft:
                draft.write_text(text + "\n", "utf-8")
    return scores


def transcribe_manifest(
    model: Any, rows: Manifest, batch_seconds: float = 60.0, search: Search | None = None
) -> list[str]:
    """Text of every row: many short rows per batch, rows longer than a batch in windows. A row too short for one
    frame gives an empty text; rows whose audio cannot be read are an error, for a score must not depend on which files
    happened to open."""
    texts: list[str] = []
    for result in transcribe_rows(model, rows, range(len(rows)), batch_seconds, batch_seconds, "evaluate", search):
        if isinstance(result.value, InputError) and not isinstance(result.value, TooShort):
            raise result.value
        texts.append("" if isinstance(result.value, TooShort) else result.value.text)
    return texts
