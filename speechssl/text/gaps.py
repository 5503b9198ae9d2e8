"""Align a long recording with its text, of which parts may not be read, and which may lack parts of what is said.

What a model hears, with its errors, is matched with the text symbol by symbol (matching.py). Words whose letters agree divide
the two into pieces, which are aligned exactly, so memory and time grow with the length of the recording only.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from speechssl.core.packed import Geometry
from speechssl.text.align import Clip, align, spelling
from speechssl.text.borders import STEPS
from speechssl.text.decode import SAMPLE_RATE, Run, collapse
from speechssl.text.matching import matched
from speechssl.text.tokenizer import CharTokenizer
from speechssl.text.transcript import Transcript, Word, later

FEW = 8  # symbols: as many on one side without the other are no slip of the model
MANY = 24  # symbols on both sides that do not agree at all
PIECE = 1500  # frames, from which on an alignment is cut between two words
ROOM = 50  # frames before the first and after the last symbol that was heard of a part


class Part(NamedTuple):
    """Words `first` to `stop` of a text, which are said in the frames from `begin` to `end`."""

    first: int
    stop: int
    begin: int
    end: int


def align_parts(
    clip: Clip, tokenizer: CharTokenizer, geometry: Geometry, silence: float = 0.0, gaps: bool = True
) -> Transcript | None:
    """The times of the words that are said, and what is unmatched: words of the text, which have no length, and stretches of
    speech, which have no text. None if nothing agrees. gaps: False if all words are said, and nothing else; then None is for
    pieces that do not fit too."""
    best_T = clip.log_probs_TV.argmax(dim=1)
    heard = [run for run in collapse(best_T, tokenizer.blank) if tokenizer.symbol(run.token)]
    hop, margin = geometry.hop / SAMPLE_RATE, round(silence * SAMPLE_RATE / geometry.hop)
    steps = geometry.hop * STEPS // SAMPLE_RATE
    parts = list(parts_of(heard, clip.words, tokenizer, (margin, len(best_T) - margin), gaps))
    pieces = []
    for first, stop, begin, end in parts:
        excess_F = clip.excess_F
        own_F = None if excess_F is None else excess_F[(begin - margin) * steps : (end - margin) * steps]
        pieces.append(Clip(clip.log_probs_TV[begin:end], clip.words[first:stop], own_F))
    aligned = [
        (part, later(one, part.begin * hop - silence))
        for part, one in zip(parts, align(pieces, tokenizer, geometry), strict=True)
        if one is not None  # its letters need more frames than there are
    ]
    if not aligned or (not gaps and len(aligned) < len(parts)):
        return None
    words = [word for _, one in aligned for word in one.words]
    times = [(run.first * hop - silence, run.stop * hop - silence) for run in heard]
    duration = (len(best_T) - 1) * hop + geometry.receptive_field / SAMPLE_RATE - 2 * silence
    return Transcript(
        text=" ".join(word.text for word in words),
        words=words,
        duration=duration,
        letters=[letter for _, one in aligned for letter in one.letters],
        unmatched=list(unmatched([(*part[:2], one) for part, one in aligned], clip.words, times, duration)),
    )


def parts_of(
    heard: Sequence[Run],
    words: Sequence[tuple[str, str]],
    tokenizer: CharTokenizer,
    frames: tuple[int, int],
    gaps: bool,
) -> Iterator[Part]:
    """The parts of a text that agree with what was heard, cut into pieces between words that do; of the whole text unless
    `gaps`. frames: the first and the last one that are used."""
    tokens, spans = spelling(words, tokenizer, -1)
    letters = [token for first, stop in spans for token in tokens[first:stop]]
    sizes = np.array([stop - first for first, stop in spans])
    owner = np.repeat(np.arange(len(spans)), sizes)  # the word of each letter
    begins = np.concatenate([[0], np.cumsum(sizes)])  # the first letter of each word
    pairs = matched([run.token for run in heard], letters)
    parts = [*runs(pairs)] if gaps else [pairs] if pairs else []
    done = 0
    for number, part in enumerate(parts, 1):
        said = np.bincount([owner[j] for _, j in part], minlength=len(words))
        first = max(done, int(owner[part[0][1]]))
        stop = int(owner[part[-1][1]]) + 1
        first += first < stop and 2 * said[first] < sizes[first]  # the word was divided; most of it is not here
        stop -= first < stop and 2 * said[stop - 1] < sizes[stop - 1]
        if begins[first] - begins[done] < FEW:
            first = done
        if number == len(parts) and begins[-1] - begins[stop] < FEW:
            stop = len(words)
        part = [(i, j) for i, j in part if begins[first] <= j < begins[stop]]
        if not part:
            continue
        before = part[0][0] - (part[0][1] - int(begins[first])) - 1  # what was heard before its first letter
        after = part[-1][0] + int(begins[stop]) - part[-1][1]
        begin = max(frames[0], heard[part[0][0]].first - ROOM, heard[before].stop if before >= 0 else 0)
        end = min(frames[1], heard[part[-1][0]].stop + ROOM, heard[after].first if after < len(heard) else frames[1])
        if not gaps:
            first, stop, begin, end = 0, len(words), *frames
        for (i, j), (k, m) in pairwise(part):
            if k == i + 1 and m == j + 1 and owner[m] != owner[j] and heard[k].first - begin >= PIECE:
                cut = (heard[i].stop + heard[k].first) // 2
                yield Part(first, int(owner[m]), begin, cut)
                first, begin = int(owner[m]), cut
        yield Part(first, stop, begin, end)
        done = stop


def runs(pairs: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Pairs of places in what was heard and in the text, divided where one has much that the other lacks."""
    held: list[tuple[int, int]] = []
    for i, j in pairs:
        if held:
            said, written = i - held[-1][0] - 1, j - held[-1][1] - 1
            less, more = sorted((said, written))
            if (more >= FEW and 3 * less < more) or less >= MANY:
                yield held
                held = []
        held.append((i, j))
    if held:
        yield held


def unmatched(
    parts: Sequence[tuple[int, int, Transcript]],
    words: Sequence[tuple[str, str]],
    times: Sequence[tuple[float, float]],
    duration: float,
) -> Iterator[Word]:
    """What lies between the aligned parts, (first word, stop, times). times: of the symbols that were heard."""
    ends = [0.0, *(one.words[-1].end for _, _, one in parts)]
    starts = [*(one.words[0].start for _, _, one in parts), duration]
    stops = [0, *(stop for _, stop, _ in parts)]
    firsts = [*(first for first, _, _ in parts), len(words)]
    for begin, end, first, stop in zip(ends, starts, stops, firsts, strict=True):
        if stop > first:
            text = " ".join(text for text, _ in words[first:stop])
            yield Word(text=text, start=begin, end=begin, score=0.0)
        inside = [(a, b) for a, b in times if begin <= (a + b) / 2 < end]
        if len(inside) >= FEW:
            yield Word(
                text="", start=round(max(begin, inside[0][0]), 3), end=round(min(end, inside[-1][1]), 3), score=0.0
            )
