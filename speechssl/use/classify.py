"""Classes of clips by a fine-tuned classifier, as a table of probabilities; for long recordings over time too."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from speechssl.core.errors import InputError
from speechssl.core.files import output_file, replacing
from speechssl.core.progress import write
from speechssl.data.channels import segment_of, with_channel
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.sources import rows_of
from speechssl.sound import audio
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.sound.windows import Ahead
from speechssl.use.stream import BATCH, Outcome, TooShort, stream_clips

LONGEST = 30.0  # seconds classified at once; a longer clip has the mean of its pieces
UNKNOWN = "unknown"
META = ("id", "path", "start", "duration", "channel", "speaker", "label")


class Answer(NamedTuple):
    """start: seconds from the beginning of the recording. probs_C: those of the classes."""

    row: Utterance
    start: float
    duration: float
    probs_C: np.ndarray


def several(model: Any) -> bool:
    """Whether a clip can have several labels."""
    return model.config_json.get("problem_type") == "multi_label_classification"


def probabilities(model: Any, waves: Sequence[np.ndarray]) -> np.ndarray:
    """(B, C) of waves (S,): they add up to 1, or, where a clip can have several labels, each is of its own."""
    logits_BC = model.class_logits(waves)
    return (torch.sigmoid(logits_BC) if several(model) else torch.softmax(logits_BC, dim=1)).numpy()


def pieces(model: Any, source: Any, seconds: float, **segment: Any) -> Iterator[np.ndarray]:
    """A clip in pieces of so many seconds (S,), read one at a time; less than half of one at the end is left out."""
    clip, size = Ahead(audio.stream(source, **segment)), round(seconds * SAMPLE_RATE)
    for start in count(0, size):
        wave_S = clip.read(start, start + size)
        if len(wave_S) < max(model.config.geometry.receptive_field, size / 2 if start else 0):
            return
        yield wave_S


def probabilities_of_long(model: Any, source: Any, **segment: Any) -> np.ndarray:
    """The mean over the pieces of a long clip: (C,)."""
    found = [probabilities(model, [wave_S])[0] for wave_S in pieces(model, source, LONGEST, **segment)]
    if not found:
        raise TooShort(f"{source} is shorter than one frame; there is nothing to classify")
    return np.mean(found, axis=0)


def over_time(model: Any, row: Utterance, every: float) -> Iterator[Answer]:
    """The answers of a row for each `every` seconds, computed from these seconds alone."""
    for number, wave_S in enumerate(pieces(model, row.path, every, **segment_of(row))):
        start = row.start + number * every
        yield Answer(row, start, len(wave_S) / SAMPLE_RATE, probabilities(model, [wave_S])[0])


def answers(model: Any, rows: Manifest, what: str = "classify") -> Iterator[Outcome]:
    """The probabilities (C,) of each row, or the InputError in their place, in order."""
    model.require_classes()
    for batch in stream_clips(
        rows,
        range(len(rows)),
        lambda waves: list(probabilities(model, waves)),
        partial(probabilities_of_long, model),
        reach=model.config.geometry.receptive_field,
        longest=LONGEST,
        batch_seconds=BATCH[model.device.type],
        what=what,
    ):
        yield from batch


def classify_files(
    model: Any,
    sources: Sequence[Path],
    *,
    where: str | Sequence[str] = "",
    channel: str = "mix",
    every: float = 0.0,
    unknown_below: float = 0.0,
    out: Path | None = None,
) -> int:
    """Print or write a row for each clip, with its class and the probability of each; returns how many failed, each is reported.

    every: a row for each so many seconds, instead of one for each clip. unknown_below: the class is `unknown` where no
    probability reaches this. out: its ending says what is written, one of WRITERS.
    """
    model.require_classes()
    if out is not None and out.suffix not in WRITERS:
        raise InputError(f"--out {out} ends in none of {', '.join(WRITERS)}; its ending says what is written")
    if every and every * SAMPLE_RATE < model.config.geometry.receptive_field:
        raise InputError(f"--every {every:g} is less than one frame of this model; give seconds, such as 1")
    out = None if out is None else output_file(out, f"classes{out.suffix}")
    rows, failed, found = with_channel(rows_of(sources, where), channel), 0, []
    for answer in timed(model, rows, every) if every else whole(model, rows):
        if isinstance(answer, InputError):
            failed += 1
            write(f"error: {answer}")
            continue
        line = table_row(answer, model, unknown_below)
        found.append(line)
        if out is None:
            shown = f" {line['start']:g} s" if every else ""
            write(f"{line['path']}{shown}: {line['class']} ({line['confidence']:.2f})\n", sys.stdout, end="")
    if out is not None:
        with replacing(out) as draft:
            draft.write_bytes(WRITERS[out.suffix](found))
        print(f"{out}: {len(found)} rows, {len(model.classes)} classes{f'; {failed} clips failed' if failed else ''}")
    return failed


def whole(model: Any, rows: Manifest) -> Iterator[Answer | InputError]:
    """An answer for each row."""
    for result in answers(model, rows):
        row, value = result.row, result.value
        yield value if isinstance(value, InputError) else Answer(row, row.start, row.duration, value)


def timed(model: Any, rows: Manifest, every: float) -> Iterator[Answer | InputError]:
    """Answers over time for each row."""
    for row in rows:
        try:
            yield from over_time(model, row, every)
        except InputError as error:
            yield error


def table_row(answer: Answer, model: Any, unknown_below: float) -> dict[str, Any]:
    """An answer as a row of the table: the likeliest class, or, where a clip can have several, all that are likelier than not."""
    classes, best = model.classes, int(answer.probs_C.argmax())
    named = (
        [name for name, p in zip(classes, answer.probs_C, strict=True) if p > 0.5]
        if several(model)
        else [classes[best]]
    )
    confidence = float(answer.probs_C[best])
    row: dict[str, Any] = {name: getattr(answer.row, name) for name in META}
    row |= {"start": round(answer.start, 4), "duration": round(answer.duration, 4)}
    row["class"] = ";".join(named) if confidence >= unknown_below else UNKNOWN
    row["confidence"] = round(confidence, 6)
    return row | {f"p({name})": round(float(p), 6) for name, p in zip(classes, answer.probs_C, strict=True)}


def as_table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    """TSV or CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else list(META), delimiter=delimiter, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    """A JSON object in each line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """A Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITERS = {  # by the ending of --out
    ".tsv": partial(as_table, delimiter="\t"),
    ".csv": partial(as_table, delimiter=","),
    ".json": lambda rows: (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode(),
    ".jsonl": as_json_lines,
    ".parquet": as_parquet,
}
