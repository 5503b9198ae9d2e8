"""Greedy CTC decoding: the text, and the time of every word."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from speechssl.core.packed import Geometry
from speechssl.text.tokenizer import DELIMITER, CharTokenizer

SAMPLE_RATE = 16_000  # of every model


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word from `start` to `end` (seconds); score: mean probability of its characters."""

    text: str
    start: float
    end: float
    score: float
    channel: str = ""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The text of a clip and its words with their times; duration: seconds that the frames cover. channels: what was said on
    each, if they were transcribed one by one."""

    text: str
    words: list[Word]
    duration: float
    channels: "dict[str, Transcript]" = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


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
    delimiter = tokenizer.vocab.get(DELIMITER)
    spans: list[list[Run]] = [[]]
    for run in collapse(tokens_T, tokenizer.blank):
        if run.token == delimiter:
            spans.append([])
        else:
            spans[-1].append(run)
    scores = scores_T.tolist()
    found = [make_word(runs, scores, tokenizer, geometry) for runs in spans if runs]
    words = [word for word in found if word.text]  # special tokens have no text
    hop, field = geometry.hop / SAMPLE_RATE, geometry.receptive_field / SAMPLE_RATE
    duration = len(tokens_T) * hop + field - hop - 2 * silence
    if silence:
        inside = [[round(min(max(0.0, t - silence), duration), 3) for t in (word.start, word.end)] for word in words]
        words = [replace(word, start=a, end=b) for word, (a, b) in zip(words, inside, strict=True)]
    return Transcript(text=" ".join(word.text for word in words), words=words, duration=duration)


def make_word(runs: Sequence[Run], scores: Sequence[float], tokenizer: CharTokenizer, geometry: Geometry) -> Word:
    """The word that some runs of characters spell; it reaches half a hop beyond the centres of its outer frames."""
    hop, centre = geometry.hop / SAMPLE_RATE, geometry.receptive_field / 2 / SAMPLE_RATE
    return Word(
        text=tokenizer.decode(run.token for run in runs),
        start=round(max(0.0, runs[0].first * hop + centre - hop / 2), 3),
        end=round((runs[-1].stop - 1) * hop + centre + hop / 2, 3),
        score=round(sum(max(scores[run.first : run.stop]) for run in runs) / len(runs), 4),
    )
