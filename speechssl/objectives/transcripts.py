"""From a manifest's transcripts to a vocabulary, and the rows that CTC can learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry
from speechssl.data.manifest import Manifest
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.text.normalise import normalise
from speechssl.text.tokenizer import CharTokenizer


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Transcripts."""

    normaliser: str = "basic"
    """How transcripts are normalised before training and scoring."""
    vocab: str = ""
    """A vocab.json to use; empty: the characters of the training transcripts."""


def vocabulary(config: TextConfig, parts: Sequence[Manifest]) -> CharTokenizer:
    """The given vocabulary, or the characters of all transcripts."""
    if config.vocab:
        return CharTokenizer.load(Path(config.vocab))
    return CharTokenizer.build(normalise(text, config.normaliser) for rows in parts for text in rows.column("text"))


def transcribed(rows: Manifest, config: TextConfig, part: str) -> Manifest:
    """The rows whose transcript is not empty; the others are counted. InputError when none is left."""
    keep = [i for i, text in enumerate(rows.column("text")) if normalise(text, config.normaliser)]
    if not keep:
        raise InputError(f"{part}: no row has a transcript; fine-tuning needs the column `text`")
    if len(keep) < len(rows):
        dist.report(f"{part}: {len(rows) - len(keep)} of {len(rows)} utterances have no transcript and are left out")
    return rows.select(np.array(keep))


def spelled(rows: Manifest, tokenizer: CharTokenizer, config: TextConfig, part: str) -> list[list[int]]:
    """The characters of every transcript as ids; InputError names the first row with one that the vocabulary lacks."""
    texts = []
    for identity, text in zip(rows.column("id"), rows.column("text"), strict=True):
        try:
            texts.append(tokenizer.encode(normalise(text, config.normaliser)))
        except InputError as error:
            raise InputError(f"{part}, {identity}: {error}") from None
    return texts


def frames_needed(ids: Sequence[int]) -> int:
    """Frames that CTC needs for a character sequence: one each, and a blank between equal neighbours."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def alignable(
    rows: Manifest, texts: Sequence[Sequence[int]], geometry: Geometry, silence: float, part: str
) -> Manifest:
    """The rows whose transcript, as ids in `texts`, fits into their frames: CTC cannot learn from the others. silence: seconds
    that are joined to both ends of each."""
    room = [geometry.frames(int((seconds + 2 * silence) * SAMPLE_RATE)) for seconds in rows.durations]
    fits = [frames_needed(ids) <= frames for ids, frames in zip(texts, room, strict=True)]
    if not any(fits):
        raise InputError(
            f"{part}: every transcript is longer than its audio has frames; check that text and audio belong together"
        )
    if not all(fits):
        first = fits.index(False)
        dist.report(
            f"{part}: {fits.count(False)} of {len(rows)} transcripts are longer than their audio's frames and left out, the "
            f"first is {rows[first].id} ({len(texts[first])} characters, {room[first]} frames)"
        )
    return rows.select(np.flatnonzero(fits))
