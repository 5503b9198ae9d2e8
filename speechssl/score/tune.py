"""`speechssl tune-lm`: the weight and the word score of a language model, chosen on transcribed audio that is no test."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.core.files import replacing
from speechssl.core.progress import Progress
from speechssl.data.manifest import Manifest
from speechssl.data.marked import read_valid
from speechssl.score.wer import ErrorRates, error_rates
from speechssl.sound.audio import between_silence
from speechssl.text.decoders import decode
from speechssl.text.ngram import open_lm
from speechssl.text.search import Search
from speechssl.use.language import DEFAULTS, normaliser_of, tuned_file
from speechssl.use.stream import BATCH, TooShort, stream_clips
from speechssl.use.transcribe import posteriors

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
WORD_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was chosen. tried: (weight, word score) -> WER, or CER where that is the headline. best: the whole score there;
    greedy: that without a model."""

    file: Path
    lm_weight: float
    word_score: float
    tried: dict[tuple[float, float], float]
    best: ErrorRates
    greedy: ErrorRates

    def __str__(self) -> str:
        return (
            f"{self.file}: weight {self.lm_weight:g}, word score {self.word_score:g}, the best of {len(self.tried)} pairs on "
            f"these rows\n  without a language model  {first(self.greedy)}\n  with it                   {first(self.best)}"
        )


def tune_lm(
    model: Any,
    lm: Path,
    manifest: Path,
    *,
    where: str | Sequence[str] = "",
    normaliser: str = "auto",
    beam: int = 100,
) -> Tuned:
    """Search the weights that give the lowest WER, or CER where that is the headline, on the rows of a table that are marked
    dev, or all if none is; write them beside the language model. InputError for rows that cannot be read."""
    model.require_tokenizer()
    search = Search(beam=max(1, beam), lm=open_lm(lm))
    conditions = [where] if isinstance(where, str) else list(where)
    rows = read_valid([manifest], [one for one in conditions if one], lambda note: print(note, file=sys.stderr))
    frames, normal = posteriors_of(model, rows), normaliser_of(model, normaliser, {})

    def score(one: Search) -> ErrorRates:
        texts = [ranked.text if (ranked := decode(x, model.tokenizer, one)[0]) else "" for x in frames]
        ids, said, speakers = (rows.column(name) for name in ("id", "text", "speaker"))
        phones = model.tokenizer.writing.phones
        how: dict[str, Any] = {"normaliser": normal, "phones": phones, "decoding": str(one)}
        return error_rates(said, texts, ids=ids, speakers=speakers, **how)

    found: dict[tuple[float, float], ErrorRates] = {}
    best = (DEFAULTS["lm_weight"], DEFAULTS["word_score"])
    with Progress(2 * (len(WEIGHTS) + len(WORD_SCORES)), "pair", "tune-lm", leave=False) as bar:
        for _ in range(2):  # one value after the other, twice
            for place, values in enumerate((WEIGHTS, WORD_SCORES)):
                for value in values:
                    pair = (value, best[1]) if place == 0 else (best[0], value)
                    if pair not in found:
                        found[pair] = score(replace(search, lm_weight=pair[0], word_score=pair[1]))
                    bar.update()
                best = min(found, key=lambda pair: (rate(found[pair]), abs(pair[0]), abs(pair[1])))
    greedy = score(Search(beam=1))
    file = tuned_file(lm)
    values = {"lm_weight": best[0], "word_score": best[1], "model": str(model.source), "on": str(manifest)}
    with replacing(file) as draft:
        draft.write_text(json.dumps(values | {"rate": rate(found[best])}, indent=2) + "\n", encoding="utf-8")
    return Tuned(
        file=file,
        lm_weight=best[0],
        word_score=best[1],
        tried={pair: rate(scores) for pair, scores in found.items()},
        best=found[best],
        greedy=greedy,
    )


def first(scores: ErrorRates) -> str:
    """The rates without the rest of the report."""
    return str(scores).partition("\n")[0]


def rate(scores: ErrorRates) -> float:
    """What is minimised."""
    return {"wer": scores.wer, "cer": scores.cer}[scores.headline].value


def posteriors_of(model: Any, rows: Manifest) -> list[Tensor]:
    """The log-posteriors (T, V) of every row, computed once for all pairs; none for a row of less than a frame. InputError for
    audio that cannot be read, and for rows without transcripts."""
    if not any(rows.cells("text")):
        raise InputError("the rows have no transcripts to compare with; give transcribed audio")

    def several(waves: list[np.ndarray]) -> list[Tensor]:
        return model.log_probs([between_silence(wave_S, model.silence) for wave_S in waves])

    def one(path: str, **segment: Any) -> Tensor:
        return torch.cat(posteriors(model, path, **segment))

    batches = stream_clips(
        rows,
        range(len(rows)),
        several,
        one,
        reach=model.config.geometry.receptive_field,
        longest=60.0,
        batch_seconds=BATCH[model.device.type],
        what="posteriors",
    )
    found = []
    for result in (outcome for batch in batches for outcome in batch):
        if isinstance(result.value, InputError) and not isinstance(result.value, TooShort):
            raise result.value
        found.append(result.value if isinstance(result.value, Tensor) else Tensor(0, len(model.tokenizer)))
    return found
