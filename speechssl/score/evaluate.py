"""WER and CER of a model on a manifest of transcribed audio, and the files that `compare` reads."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, replacing
from speechssl.data.manifest import Manifest, escape
from speechssl.data.marked import TRAIN, counted, parts_of
from speechssl.data.sources import rows_of
from speechssl.score.calibration import Calibration, calibration_of, confidences
from speechssl.score.edits import Scored, score_all
from speechssl.score.evaluate_page import write_page
from speechssl.score.wer import ErrorRates, Group, groups_by, groups_by_length, rates_of
from speechssl.text.normalise import Normaliser
from speechssl.text.search import Search
from speechssl.text.transcript import Transcript
from speechssl.use.language import normaliser_of
from speechssl.use.stream import TooShort
from speechssl.use.transcribe import transcribe_rows

SCORES, UTTERANCES, PAGE = "scores.json", "utterances.tsv", "page.html"


class Line(NamedTuple):
    """A line of UTTERANCES. reference, hypothesis: before normalisation, white space as single spaces. words to
    character_errors: "" for an empty reference, which is not counted. confidence: the mean over the recognised words."""

    id: str
    reference: str
    hypothesis: str
    speaker: str
    seconds: str
    words: str
    substitutions: str
    deletions: str
    insertions: str
    characters: str
    character_errors: str
    confidence: str


def evaluate(
    model: Any,
    manifest: Path,
    *,
    where: str | Sequence[str] = "",
    normaliser: str = "auto",
    how: dict[str, str] | None = None,
    by: Sequence[str] = (),
    out: Path | None = None,
    search: Search | None = None,
) -> ErrorRates:
    """Score `model` on the transcribed rows of a table or folder, whatever they are marked as; `out` gets SCORES, UTTERANCES and
    PAGE. normaliser: auto, or one of NORMALISERS. how: its language, digits and points where they are not those of the
    model's training. by: columns whose values get rates of their own, besides speaker and length. search: a beam search; None:
    greedy decoding."""
    rows = rows_of([manifest], where)
    parts_R = parts_of(rows)
    if TRAIN in parts_R and len(set(parts_R)) > 1:
        dist.report(
            f"evaluate: all {len(rows)} rows, by their column split {counted(parts_R)}; --where split=test takes some"
        )
    model.require_tokenizer()
    normal = normaliser_of(model, normaliser, how or {})
    columns = {name: rows.column(name) for name in ("id", "text", "speaker", *by)}
    if out is not None:
        output_folder(out)
    transcripts = transcribe_manifest(model, rows, search=search)
    hypotheses = [transcript.text for transcript in transcripts]
    scored = score_all(columns["id"], columns["speaker"], columns["text"], hypotheses, normal)
    more: dict[str, Any] = {"decoding": str(search)} if search else {}
    scores = rates_of(
        scored,
        normaliser=str(normal),
        phones=model.tokenizer.writing.phones,
        groups=groups_of(scored, {name: columns[name] for name in by}, transcripts),
        calibration=calibrated(scored, transcripts, normal),
        **more,
    )
    if out is not None:
        conditions = [where] if isinstance(where, str) else where
        titles = {"model": str(model.source), "test": " ".join([str(manifest), *filter(None, conditions)])}
        write(out, titles, scores, [line_of(*row) for row in zip(rows.cells("text"), scored, transcripts, strict=True)])
        write_page(out / PAGE, titles, scores, rows, scored, [transcript.duration for transcript in transcripts])
    return scores


def transcribe_manifest(
    model: Any, rows: Manifest, batch_seconds: float = 60.0, search: Search | None = None
) -> list[Transcript]:
    """What is heard in every row: many short rows per batch, rows longer than a batch in windows. A row too short for one
    frame gives an empty text; rows whose audio cannot be read are an error, for a score must not depend on which files
    happened to open."""
    found: list[Transcript] = []
    for result in transcribe_rows(model, rows, range(len(rows)), batch_seconds, batch_seconds, "evaluate", search):
        if isinstance(result.value, InputError) and not isinstance(result.value, TooShort):
            raise result.value
        nothing = Transcript(text="", words=[], duration=0.0)
        found.append(nothing if isinstance(result.value, TooShort) else result.value)
    return found


def groups_of(
    scored: Sequence[Scored], columns: dict[str, Sequence[str]], transcripts: Sequence[Transcript]
) -> dict[str, list[Group]]:
    """The rates by length, by speaker where there are several, and by the values of columns."""
    if not any(one.words for one in scored):
        return {}
    speakers = [one.speaker for one in scored]
    if len(set(speakers)) > 1:
        columns = {"speaker": speakers} | columns
    lengths = groups_by_length(scored, [transcript.duration for transcript in transcripts])
    groups = {"length": lengths} if len(lengths) > 1 else {}
    return groups | {name: groups_by(scored, values) for name, values in columns.items()}


def calibrated(scored: Sequence[Scored], transcripts: Sequence[Transcript], normal: Normaliser) -> Calibration | None:
    """The calibration of all words of utterances with a reference; None without any."""
    kept = [
        (confidences(one, transcript.words, normal), len(transcript.words))
        for one, transcript in zip(scored, transcripts, strict=True)
        if one.words
    ]
    pairs = [pair for found, _ in kept for pair in found or ()]
    return calibration_of(pairs, sum(count for found, count in kept if found is None)) if pairs else None


def line_of(text: str, one: Scored, transcript: Transcript) -> Line:
    """What is written of an utterance."""
    edits = one.word_edits
    counts = (edits.units, edits.substitutions, edits.deletions, edits.insertions)
    characters = (one.character_edits.units, one.character_edits.errors)
    scores = [word.score for word in transcript.words]
    cells = [
        escape(one.id),
        *(" ".join(cell.split()) for cell in (text, transcript.text, one.speaker)),
        f"{transcript.duration:.2f}",
        *(str(count) if one.words else "" for count in (*counts, *characters)),
        f"{sum(scores) / len(scores):.3f}" if scores else "",
    ]
    return Line(*cells)


def write(out: Path, titles: dict[str, str], scores: ErrorRates, lines: Sequence[Line]) -> None:
    """Write SCORES and UTTERANCES."""
    table = "\n".join("\t".join(line) for line in (Line._fields, *lines))
    numbers = json.dumps(titles | asdict(scores), ensure_ascii=False, indent=2)
    for name, text in ((UTTERANCES, table), (SCORES, numbers)):
        with replacing(out / name) as draft:
            draft.write_text(text + "\n", "utf-8", errors="backslashreplace")
