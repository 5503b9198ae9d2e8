"""Transcribe audio of any length in constant memory, in windows from pause to pause."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core import dist, progress
from speechssl.core.english import count
from speechssl.core.errors import InputError
from speechssl.core.files import output_file, output_folder, replacing
from speechssl.data.channels import by_channel, check_channel
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.sources import transcripts_of
from speechssl.sound.audio import SAMPLE_RATE, between_silence
from speechssl.sound.levels import STEP, excess, levels
from speechssl.sound.windows import Window, steady, windows
from speechssl.text.borders import widened
from speechssl.text.decode import spell
from speechssl.text.decoders import transcript_of
from speechssl.text.doubt import doubtful
from speechssl.text.formats import dialogue, write
from speechssl.text.search import Search
from speechssl.text.tokenizer import CharTokenizer
from speechssl.text.transcript import Transcript, Word, later
from speechssl.use.stream import BATCH, Outcome, own_rows, stream_clips

UTTERANCE = 0.5  # seconds after which the first pause ends a window of a long clip


def posteriors(model: Any, source: Any, change: Callable[[Tensor], Any] = lambda x: x, **options: Any) -> list[Any]:
    """What `change` makes of the log-posteriors (T, V) of a clip, which are computed window by window. InputError for a clip of
    less than a frame."""
    return heard(model, source, change, **options)[0]


def heard(model: Any, source: Any, change: Callable[[Tensor], Any], **options: Any) -> tuple[list[Any], np.ndarray]:
    """The same, and how far the sound stands out of its background (levels.excess), which tells where words begin and end."""
    geometry, (found, parts) = model.config.letters, ([], [])
    steps, margin = geometry.hop // STEP, round(model.silence * SAMPLE_RATE) // STEP
    pieces = windows(source, geometry, silence=model.silence, **{"utterance": UTTERANCE} | options)
    for batch in batches(pieces, BATCH[model.device.type]):
        waves = [piece.wave_S for piece in batch if not piece.silent]
        computed = iter(model.log_probs(waves) if waves else ())
        for piece in batch:
            frames = len(range(*piece.rows.indices(geometry.frames(len(piece.wave_S)))))
            kept_TV = nothing(frames, model.tokenizer) if piece.silent else next(computed)[piece.rows].clone()
            if piece.pause and model.tokenizer.delimiter is not None:
                end_word(kept_TV[-1], model.tokenizer)
            found.append(change(kept_TV))
            parts.append(levels(piece.wave_S)[piece.rows.start * steps : piece.rows.stop and piece.rows.stop * steps])
    if not found:
        name = "the array" if hasattr(source, "__len__") and not isinstance(source, str) else source
        raise InputError(f"{name} is shorter than one frame (25 ms); there is nothing to transcribe")
    levels_FB = np.concatenate(parts)
    return found, excess(levels_FB[margin : len(levels_FB) - margin])


def nothing(frames: int, tokenizer: CharTokenizer) -> Tensor:
    """Log-posteriors (T, V) by which nothing is said."""
    log_probs_TV = torch.full((frames, len(tokenizer)), math.log(1e-9))
    log_probs_TV[:, tokenizer.blank] = 0.0
    return log_probs_TV


def end_word(frame_V: Tensor, tokenizer: CharTokenizer) -> None:
    """Turn nine tenths of the blank of a frame in a pause into a word delimiter: a model that learned from utterances writes none
    at their end."""
    blank = frame_V[tokenizer.blank].clone()
    frame_V[tokenizer.blank] = blank + math.log(0.1)
    frame_V[tokenizer.delimiter] = torch.logaddexp(frame_V[tokenizer.delimiter], blank + math.log(0.9))


def batches(pieces: Iterable[Window], seconds: float) -> Iterator[list[Window]]:
    """Windows in groups of about `seconds` of audio, one at least."""
    group: list[Window] = []
    for piece in pieces:
        if group and sum(len(one.wave_S) for one in (*group, piece)) > seconds * SAMPLE_RATE:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def transcribe(
    model: Any, source: Any, *, search: Search | None = None, confidence: float = 0.0, **options: Any
) -> Transcript:
    """Text and word times of one clip: path, file object, array or tensor; options as in speechssl.sound.windows.windows.

    The frames of a long clip are computed window by window and decoded together, so no word is cut. search: a beam search; None:
    greedy decoding, for which only the best character of each frame is kept, so that memory does not grow with the vocabulary.
    confidence: what is said between two pauses is left out, and stands in `doubted`, if the mean probability of its characters is
    lower; `speechssl transcribe` takes 0.6 unless told otherwise.
    """
    if search:
        parts, excess_F = heard(model, source, lambda x: x, **options)
        return decoded(torch.cat(parts), model, search, confidence, excess_F)
    best, excess_F = heard(model, source, lambda x: x.max(dim=1), **options)
    scores_T, tokens_T = (torch.cat(parts) for parts in zip(*best, strict=True))
    return spelled(tokens_T, scores_T.exp(), model, confidence, excess_F)


def spelled(tokens_T: Tensor, scores_T: Tensor, model: Any, confidence: float, excess_F: np.ndarray) -> Transcript:
    """The transcript of the best token of every frame and its probability; words last as long as their sound."""
    doubt_T, doubted = doubts(tokens_T, scores_T, model, confidence)
    tokens_T = tokens_T.masked_fill(doubt_T, model.tokenizer.blank)
    found = spell(tokens_T, scores_T, model.tokenizer, model.config.letters, model.silence)
    return replace(found, words=widened(found.words, excess_F, found.duration), doubted=doubted)


def decoded(
    log_probs_TV: Tensor, model: Any, search: Search | None, confidence: float, excess_F: np.ndarray
) -> Transcript:
    """The transcript of log-posteriors (T, V), likewise."""
    scores_T, tokens_T = log_probs_TV.max(dim=1)
    if search is None:
        return spelled(tokens_T, scores_T.exp(), model, confidence, excess_F)
    doubt_T, doubted = doubts(tokens_T, scores_T.exp(), model, confidence)
    if doubted:
        log_probs_TV = torch.where(doubt_T[:, None], nothing(1, model.tokenizer), log_probs_TV)
    found = transcript_of(log_probs_TV, model.tokenizer, model.config.letters, search, model.silence)
    return replace(found, words=widened(found.words, excess_F, found.duration), doubted=doubted)


def doubts(tokens_T: Tensor, scores_T: Tensor, model: Any, confidence: float) -> tuple[Tensor, list[Word]]:
    """Which frames (T,) are left out for their confidence, and the words that are heard there."""
    tokenizer, geometry = model.tokenizer, model.config.letters
    doubt_T = doubtful(tokens_T, scores_T, tokenizer, geometry, confidence)
    if not doubt_T.any():
        return doubt_T, []
    heard_T = tokens_T.masked_fill(~doubt_T, tokenizer.blank)
    return doubt_T, spell(heard_T, scores_T, tokenizer, geometry, model.silence).words


def transcribe_waves(
    model: Any, waves: Sequence[np.ndarray], *, search: Search | None = None, confidence: float = 0.0
) -> list[Transcript]:
    """Short clips in one packed batch; each transcript equals that of the clip on its own."""
    return [decoded(own_TV, model, search, confidence, excess_F) for own_TV, excess_F in heard_waves(model, waves)]


def heard_waves(model: Any, waves: Sequence[np.ndarray]) -> list[tuple[Tensor, np.ndarray]]:
    """Log-posteriors (T, V) and levels, as in `heard`, of short clips in one packed batch."""
    spaced, geometry = [between_silence(wave_S, model.silence) for wave_S in waves], model.config.letters
    empty = [steady(wave_S) for wave_S in waves]
    rest = [one_S for one_S, nobody in zip(spaced, empty, strict=True) if not nobody]
    computed = iter(model.log_probs(rest) if rest else ())
    found = []
    for one_S, wave_S, nobody in zip(spaced, waves, empty, strict=True):
        own_TV = nothing(geometry.frames(len(one_S)), model.tokenizer) if nobody else next(computed)
        found.append((own_TV, excess(levels(wave_S))))
    return found


def transcribe_rows(
    model: Any,
    rows: Manifest,
    indices: Sequence[int],
    longest: float,
    batch_seconds: float,
    what: str,
    search: Search | None = None,
    confidence: float = 0.0,
) -> Iterator[Outcome]:
    """A Transcript, or an InputError, of some rows: short ones in batches, those of more than `longest` seconds in windows."""
    how: dict[str, Any] = {"search": search, "confidence": confidence}
    batches = stream_clips(
        rows,
        indices,
        partial(transcribe_waves, model, **how),
        partial(transcribe, model, **how),
        reach=model.config.geometry.receptive_field,
        longest=longest,
        batch_seconds=batch_seconds,
        what=what,
    )
    yield from chain.from_iterable(batches)


def transcribe_channels(
    model: Any, rows: Manifest, indices: Sequence[int], channel: str, **how: Any
) -> Iterator[Outcome]:
    """The same of a channel of each row; for "each", one Transcript of all channels."""
    parts = [list(by_channel([rows[index]], channel)) for index in indices]
    clips = Manifest.of(chain.from_iterable(parts))
    results = transcribe_rows(model, clips, range(len(clips)), 30.0, BATCH[model.device.type], "transcribe", **how)
    for index, own in zip(indices, parts, strict=True):
        found = list(islice(results, len(own)))
        failed = [result.value for result in found if isinstance(result.value, InputError)]
        value = failed[0] if failed else found[0].value
        if len(found) > 1 and not failed:
            value = dialogue({result.row.channel: result.value for result in found})
        yield Outcome(index, rows[index], value)


def transcribe_files(
    model: Any,
    sources: Sequence[Path],
    *,
    where: str | Sequence[str] = "",
    style: str = "txt",
    out: Path | None = None,
    channel: str = "mix",
    search: Search | None = None,
    confidence: float = 0.0,
) -> int:
    """Transcribe files, all audio in folders and the rows of tables, print or write into `out`; returns how many failed (each is
    reported).

    Times count from the beginning of the file. Transcripts that this model has already written into `out` are kept unless the
    audio is newer. Under torchrun the processes
    share the files.
    """
    model.require_tokenizer()
    check_channel(channel)
    rows, failed, doubted = transcripts_of(sources, where), 0, 0
    how: dict[str, Any] = {"search": search, "confidence": confidence}
    key = f"{model.fingerprint()} {channel} {search or ''} {confidence:g}"
    with dist.sharing():
        if out is None and dist.world() > 1:
            raise InputError("several processes cannot print in order; name a folder for the transcripts with --out")
        if out is None and style != "txt" and len(rows) > 1:
            raise InputError(f"{len(rows)} files do not fit into one {style}; name a folder for them with --out")
        mine = own_rows(len(rows), dist.rank(), dist.world())
        waiting = mine if out is None else unwritten(key, rows, mine, output_folder(out), style)
        for result in transcribe_channels(model, rows, waiting, channel, **how):
            file, text = Path(result.row.path), result.value
            if isinstance(text, InputError):
                failed += 1
                progress.write(f"error: {text}")
                continue
            doubted += len(text.doubted)
            page = write(later(text, result.row.start), style, file.name)
            if out is not None:
                with replacing(output_file(out / f"{result.row.id}.{style}", "x")) as draft:
                    draft.write_text(page, encoding="utf-8")
            else:
                start = f" from {result.row.start:g} s" if result.row.start else ""
                name = f"{file}{start}: " if style == "txt" and len(rows) > 1 else ""
                progress.write(f"{name}{page}", sys.stdout, end="")
        if doubted := int(dist.all_sum_float(doubted)):
            dist.report(
                f"{count(doubted, 'unsure word')} left out of what is heard between pauses; --confidence 0 keeps all, --format "
                "json lists them"
            )
        return int(dist.all_sum_float(failed))  # waits for the other processes


def unwritten(key: str, rows: Manifest, indices: Sequence[int], out: Path, style: str) -> list[int]:
    """The rows that have no transcript in `out`, or an older one than the audio or than the note of what made it, `key`."""
    refuse_equal_names(rows, style)
    note = out / f".{style}.model"
    if dist.rank() == 0 and not (note.is_file() and note.read_text() == key):
        with replacing(note) as draft:
            draft.write_text(key)
    dist.barrier()
    since = note.stat().st_mtime_ns

    def written(row: Utterance) -> bool:
        text, sound = out / f"{row.id}.{style}", Path(row.path)
        return text.exists() and sound.exists() and text.stat().st_mtime_ns >= max(since, sound.stat().st_mtime_ns)

    left = [index for index in indices if not written(rows[index])]
    done = int(dist.all_sum_float(len(indices) - len(left)))
    if done and dist.rank() == 0:
        print(f"{out}: {done} of {len(rows)} transcripts exist and are kept", file=sys.stderr)
    return left


def refuse_equal_names(rows: Manifest, style: str) -> None:
    """InputError if the transcripts of two files would overwrite each other."""
    seen: dict[str, str] = {}
    for name, path in zip(rows.cells("id"), rows.cells("path"), strict=True):
        if name in seen:
            raise InputError(f"{seen[name]} and {path} would both become {name}.{style}; give each its own --out")
        seen[name] = path
