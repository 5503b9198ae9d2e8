"""`speechssl align`: word and letter times of given transcripts, and the segments that they divide recordings into."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from speechssl.core import progress
from speechssl.core.errors import InputError
from speechssl.core.files import output_file, output_folder, replacing
from speechssl.core.lines import read_lines
from speechssl.data.manifest import Manifest, Utterance, write_manifest, write_rejected
from speechssl.data.sources import inside, rows_of
from speechssl.text.align import Clip, align
from speechssl.text.formats import captions, clock, stretch, write
from speechssl.text.gaps import PIECE, align_parts
from speechssl.text.transcript import Transcript, later
from speechssl.use.language import normaliser_of
from speechssl.use.stream import BATCH, stream_clips
from speechssl.use.transcribe import heard, heard_waves

LONGEST = 30.0  # seconds of a clip that is computed in one piece, with others
SEGMENT = 15.0  # seconds of a segment for training, about
PAUSE = 0.5  # seconds without a word that end a segment
ROOM = 0.15  # seconds before and after its words


def align_clip(model: Any, source: Any, text: str, *, gaps: bool = False, **options: Any) -> Transcript:
    """The times of the words of `text` in a clip of any length, which is spelled as in the model's training; digits and other
    characters that it does not know take whatever is likeliest there.

    gaps: the text may have parts that are not said, and lack parts that are: both are Transcript.unmatched. options: as in
    transcribe. InputError if the text is longer than the clip.
    """
    model.require_tokenizer()
    (found,) = align_heard(model, [(str(source)[:80], text)], [heard_clip(model, source, **options)], gaps)
    if isinstance(found, InputError):
        raise found
    return found


def heard_clip(model: Any, source: Any, **options: Any) -> Any:
    """What the model hears in a clip of any length: log-posteriors (T, V) and levels."""
    parts, excess_F = heard(model, source, lambda x: x, **options)
    return torch.cat(parts), excess_F


def align_heard(
    model: Any, texts: Sequence[tuple[str, str]], heard: Sequence[Any], gaps: bool = False
) -> list[Transcript | InputError]:
    """The same of several clips, (name, text) and what the model hears in each; an InputError in the place of one that cannot be
    aligned."""
    normal, how = normaliser_of(model, "auto", {}), (model.tokenizer, model.config.letters, model.silence)
    clips = [
        Clip(log_probs_TV, [(word, normal(word)) for word in text.split()], excess_F)
        for (_, text), (log_probs_TV, excess_F) in zip(texts, heard, strict=True)
    ]
    spoken = [any(spelled for _, spelled in clip.words) for clip in clips]
    usable = [clip for clip, spoken in zip(clips, spoken, strict=True) if spoken]
    if gaps or any(len(clip.log_probs_TV) > 2 * PIECE for clip in usable):
        found = iter([align_parts(clip, *how, gaps) or (None if gaps else align([clip], *how)[0]) for clip in usable])
    else:
        found = iter(align(usable, *how))
    return [
        next(found) or misfit(name, text, len(clip.log_probs_TV) * how[1].hop / 16_000, gaps)
        if spoken
        else InputError(f"{name}: its text {text[:40]!r} has no word to align")
        for (name, text), clip, spoken in zip(texts, clips, spoken, strict=True)
    ]


def misfit(name: str, text: str, seconds: float, gaps: bool) -> InputError:
    """Why a text cannot be aligned."""
    if gaps:
        return InputError(f"{name}: nothing of its text is heard in its {seconds:.1f} s; is it another recording's?")
    return InputError(
        f"{name}: a text of {len(text)} letters does not fit into {seconds:.1f} s; is it another's? --gaps finds what is said"
    )


def align_files(
    model: Any,
    sources: Sequence[Path],
    *,
    where: str | Sequence[str] = "",
    text: Path | None = None,
    gaps: bool = False,
    style: str = "TextGrid",
    out: Path | None = None,
    segments: Path | None = None,
) -> int:
    """Align the rows of tables and folders that have a transcript, or one recording with the text in a file; print or write
    into `out`, and the segments into a table. Times count from the beginning of the file. gaps: as in align_clip. Returns how
    many failed (each is reported)."""
    model.require_tokenizer()
    rows = rows_with_text(sources, where, text)
    names = [inside(row.id).removesuffix(Path(row.path).suffix) for row in rows]
    if out is not None and len(set(names)) < len(names):
        double = next(name for name, number in Counter(names).items() if number > 1)
        raise InputError(f"two recordings would both become {double}.{style}; give each its own --out")
    if out is None and segments is None and len(rows) > 1:
        raise InputError(f"{len(rows)} recordings do not fit into one {style}; name a folder for them with --out")
    folder, table = None if out is None else output_folder(out), segments and output_file(segments, "segments.tsv")
    failed, parts, rejected = 0, list[Utterance](), list[tuple[str, str]]()
    for row, name, aligned in zip(rows, names, aligned_rows(model, rows, gaps), strict=True):
        if isinstance(aligned, InputError):
            failed += 1
            progress.write(f"error: {aligned}")
            rejected.append((row.path, str(aligned)))
            continue
        aligned = later(aligned, row.start)
        parts += segments_of(row, name, aligned)
        missing = [*unmatched_lines(aligned)]
        rejected += [(row.path, line) for line in missing]
        for line in missing:
            progress.write(f"{row.path}, {line}")
        page = write(aligned, style, Path(row.path).name)
        if folder is not None:
            with replacing(output_file(folder / f"{name}.{style}", "x")) as draft:
                draft.write_text(page, encoding="utf-8")
        elif table is None:
            progress.write(page, sys.stdout, end="")
    if table is not None:
        write_manifest(parts, table)
        write_rejected(rejected, table)
    return failed


def rows_with_text(sources: Sequence[Path], where: str | Sequence[str], text: Path | None) -> Manifest:
    """The rows that have a transcript, or the one recording with the text of a file. InputError if there is none."""
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
    return Manifest.of(rows)


def aligned_rows(model: Any, rows: Manifest, gaps: bool) -> Iterator[Transcript | InputError]:
    """Each row aligned, in order: short ones in batches, long ones in windows."""
    batches = stream_clips(
        rows,
        range(len(rows)),
        partial(heard_waves, model),
        partial(heard_clip, model),
        reach=model.config.geometry.receptive_field,
        longest=LONGEST,
        batch_seconds=BATCH[model.device.type],
        what="align",
    )
    for batch in batches:
        usable = [result for result in batch if not isinstance(result.value, InputError)]
        texts = [(result.row.path, result.row.text) for result in usable]
        found = iter(align_heard(model, texts, [result.value for result in usable], gaps))
        yield from (result.value if isinstance(result.value, InputError) else next(found) for result in batch)


def segments_of(row: Utterance, name: str, aligned: Transcript) -> Iterator[Utterance]:
    """A recording in segments of some seconds, cut in pauses; confidence: the mean of the scores of their words."""
    groups = captions(aligned.words, SEGMENT, PAUSE, float("inf"))
    edges = [row.start, *(group[-1].end for group in groups)], [*(group[0].start for group in groups), aligned.duration]
    place = 0
    for number, group in enumerate(groups):
        text, place = stretch(aligned.text, group, place)
        start = max(group[0].start - ROOM, (edges[0][number] + group[0].start) / 2)
        end = min(group[-1].end + ROOM, (group[-1].end + edges[1][number + 1]) / 2)
        confidence = sum(word.score for word in group) / len(group)
        extra = {**row.extra, "confidence": f"{confidence:.4f}"}
        yield replace(row, id=f"{name}-{number:05d}", start=start, duration=end - start, text=text, extra=extra)


def unmatched_lines(aligned: Transcript) -> Iterator[str]:
    """A line for each part of the text that is not said, and of the recording that is not in the text."""
    for part in aligned.unmatched:
        words = part.text.split()
        if words:
            some = part.text if len(words) <= 10 else f"{' '.join(words[:5])} ... {' '.join(words[-5:])}"
            yield f"{clock(part.start, '.')}: {len(words)} words of the text are not said: {some}"
        else:
            yield f"{clock(part.start, '.')} to {clock(part.end, '.')}: what is said is not in the text"
