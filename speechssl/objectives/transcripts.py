"""From a manifest's transcripts to a vocabulary, and the rows that CTC can learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry
from speechssl.data.manifest import Manifest
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.text.normalise import Normaliser
from speechssl.text.scripts import tightened
from speechssl.text.subwords import pieces_of
from speechssl.text.tokenizer import CharTokenizer


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Transcripts."""

    normaliser: str = "basic"
    """How transcripts are normalised before training and scoring: basic (lower case, no punctuation, every script whole), upper
    (the same in capitals) or none."""
    language: str = ""
    """Code of the language, such as tr or ha, for spelling rules that hold in one only: Turkish and Azeri I, Romanian commas
    below, Persian letters, words that begin or end with an apostrophe (Hausa, Hawaiian, Maltese ...)."""
    digits: Literal["keep", "spell"] = "keep"
    """spell: write numbers as words of text.language (needs the package num2words)."""
    points: Literal["keep", "drop"] = "keep"
    """Vowel points of Hebrew and Arabic."""
    symbols: Literal["characters", "phones", "subwords"] = "characters"
    """What a new vocabulary consists of: characters; phones, written between spaces in the transcripts (with text.normaliser none
    where capitals or punctuation tell phones apart); or subwords, frequent letter sequences (needs the package sentencepiece)."""
    vocab_size: int = 500
    """How many symbols subwords are to be, characters included."""
    vocab: str = ""
    """A vocab.json to use, read with the settings beside it; empty: that of --init if it has every symbol of the transcripts,
    else those of the transcripts."""

    def __post_init__(self) -> None:
        self.normal  # noqa: B018 - checks its values
        if self.vocab_size < 2:
            raise InputError(f"text.vocab_size = {self.vocab_size} must be at least 2; 500 is usual")

    @cached_property
    def normal(self) -> Normaliser:
        """What every transcript goes through."""
        return Normaliser(name=self.normaliser, **self.settings)

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the normaliser, which a model records."""
        return {"language": self.language, "digits": self.digits, "points": self.points}


def vocabulary(config: TextConfig, parts: Sequence[Manifest], known: CharTokenizer | None) -> CharTokenizer:
    """The given vocabulary; or `known`, that of the model to start from, if it has every symbol of the transcripts; or their
    characters."""
    texts = [config.normal(text) for rows in parts for text in rows.column("text")]
    phones, subwords = config.symbols == "phones", config.symbols == "subwords"
    if config.vocab:
        given = CharTokenizer.load(Path(config.vocab))
        if loses_spaces(given, texts):
            dist.report(
                f"{config.vocab} has no word delimiter; the spaces between the words of the transcripts are not learned"
            )
        return given
    fits = known is not None and known.writing.phones >= phones and known.has_pieces >= subwords
    if known is not None and fits and not loses_spaces(known, texts) and not known.lacking(texts):
        return known
    return CharTokenizer.build(texts, phones, pieces_of(texts, config.vocab_size) if subwords else ())


def loses_spaces(tokenizer: CharTokenizer, texts: Sequence[str]) -> bool:
    """Whether transcripts have spaces between words that a vocabulary cannot write."""
    without = tokenizer.delimiter is None and not tokenizer.writing.phones
    return without and any(" " in tightened(text) for text in texts)


def transcribed(rows: Manifest, config: TextConfig, part: str) -> Manifest:
    """The rows whose transcript is not empty; the others are counted. InputError when none is left."""
    keep = [i for i, text in enumerate(rows.column("text")) if config.normal(text).strip()]
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
            texts.append(tokenizer.encode(config.normal(text)))
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
