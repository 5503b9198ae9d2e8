"""Greedy CTC decoding: the text, and the time of every word, or letter where a script has no spaces."""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from speechssl.core.packed import Geometry
from speechssl.text.scripts import units
from speechssl.text.tokenizer import CharTokenizer
from speechssl.text.transcript import PAUSE, Transcript, Word

SAMPLE_RATE = 16_000  # of every model


class Run(NamedTuple):
    """A token that is the best one in the frames from `first` up to, but not including, `stop`."""

    token: int
    first: int
    stop: int


def collapse(tokens_T: Tensor, blank: int) -> list[Run]:
    """Merge equal neighbours of the best token of every frame, then drop the blanks."""
    tokens, lengths = torch.unique_consecutive(tokens_T, return_counts=True)
    stops = lengths.cumsum(0)
    runs = map(Run, tokens.tolist(), (stops - lengths).tolist(), stops.tolist())
    return [run for run in runs if run.token != blank]


def best_path(tokens_T: Tensor, tokenizer: CharTokenizer) -> str:
    """The text of the best token of every frame: repeats merged, blanks and special tokens removed."""
    return tokenizer.decode(run.token for run in collapse(tokens_T, tokenizer.blank))


def greedy(log_probs_TV: Tensor, tokenizer: CharTokenizer, geometry: Geometry, silence: float = 0.0) -> Transcript:
    """The transcript of log probabilities, from the best token of every frame; silence: as in `spell`."""
    scores_T, tokens_T = log_probs_TV.max(dim=1)
    return spell(tokens_T, scores_T.exp(), tokenizer, geometry, silence)


def spell(
    tokens_T: Tensor, scores_T: Tensor, tokenizer: CharTokenizer, geometry: Geometry, silence: float = 0.0
) -> Transcript:
    """The transcript of the best token of every frame and its probability. silence: seconds that were joined to both ends of the
    clip; times are those of the clip without it.

    Frame t is centred on the samples [t * hop, t * hop + receptive field). A character lasts from its first frame to its
    last one, and its probability is the highest of them.
    """
    scores, pause = scores_T.tolist(), round(PAUSE * SAMPLE_RATE / geometry.hop)
    spaced: list[list[Word]] = []  # the words between two spaces
    for runs in spans(collapse(tokens_T, tokenizer.blank), tokenizer):
        found = [make_word(word, scores, tokenizer, geometry) for word in words_of(runs, tokenizer, pause)]
        spaced.append([word for word in found if word.text])  # special tokens have no text
    words = [word for span in spaced for word in span]
    text = tokenizer.separator.join("".join(word.text for word in span) for span in spaced if span)
    hop, field = geometry.hop / SAMPLE_RATE, geometry.receptive_field / SAMPLE_RATE
    duration = len(tokens_T) * hop + field - hop - 2 * silence
    if silence:
        inside = [[round(min(max(0.0, t - silence), duration), 3) for t in (word.start, word.end)] for word in words]
        words = [replace(word, start=a, end=b) for word, (a, b) in zip(words, inside, strict=True)]
    return Transcript(text=text, words=words, duration=duration)


def spans(runs: Sequence[Run], tokenizer: CharTokenizer) -> list[list[Run]]:
    """The runs between two word delimiters, or single phones."""
    if tokenizer.writing.phones:
        return [[run] for run in runs]
    found: list[list[Run]] = [[]]
    for run in runs:
        if run.token == tokenizer.delimiter:
            found.append([])
        else:
            found[-1].append(run)
    return [span for span in found if span]


def words_of(runs: Sequence[Run], tokenizer: CharTokenizer, pause: int) -> list[list[Run]]:
    """A span cut into words: letter by letter where its script has no spaces, or the vocabulary has none, and at pauses of so
    many frames. Marks stay with their letter."""
    symbols = [tokenizer.symbol(run.token) for run in runs]
    text = "".join(symbols)
    if tokenizer.delimiter is None and not tokenizer.writing.phones:
        starts = {i for i, letter in enumerate(text) if unicodedata.category(letter)[0] != "M"}
    else:
        starts = set(accumulate(map(len, units(text))))
    words, place = [], 0
    for run, symbol in zip(runs, symbols, strict=True):
        if not words or place in starts or run.first - words[-1][-1].stop >= pause:
            words.append([])
        words[-1].append(run)
        place += len(symbol)
    return words


def make_word(runs: Sequence[Run], scores: Sequence[float], tokenizer: CharTokenizer, geometry: Geometry) -> Word:
    """The word that some runs of characters spell; it reaches half a hop beyond the centres of its outer frames."""
    hop, centre = geometry.hop / SAMPLE_RATE, geometry.centre / SAMPLE_RATE
    return Word(
        text=tokenizer.decode(run.token for run in runs),
        start=round(max(0.0, runs[0].first * hop + centre - hop / 2), 3),
        end=round(runs[-1].stop * hop + centre - hop / 2, 3),
        score=round(sum(max(scores[run.first : run.stop]) for run in runs) / len(runs), 4),
    )
