"""Forced alignment: the likeliest place of given symbols in CTC posteriors (Graves et al. 2006; Kürzinger et al. 2020).

The states of a text are its symbols with a blank before, between and after them. Of a long text only those near the best one so
far are kept, so memory grows with the length of the recording, not with its square.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechssl.core.packed import Geometry
from speechssl.text.borders import widened
from speechssl.text.decode import SAMPLE_RATE
from speechssl.text.tokenizer import CharTokenizer
from speechssl.text.transcript import Transcript, Word

WIDTH = 4000  # states, half of them symbols: two minutes of speech; shorter texts are aligned exactly
CELLS = 30_000_000  # frames times states of texts that are computed together
NEVER = -np.inf


def viterbi(
    frames: Sequence[np.ndarray], texts: Sequence[Sequence[int]], blank: int, width: int = WIDTH
) -> list[np.ndarray | None]:
    """The best alignment (T,) of each text with its frames (T, V): the place in the text of the symbol of each frame, -1 for a
    blank. None if there is none, as of more symbols than frames. Those of about the same length are computed together."""
    found: list[np.ndarray | None] = [None] * len(frames)
    sizes = {i: (len(frames[i]), 2 * len(text) + 1) for i, text in enumerate(texts) if len(text) <= len(frames[i]) > 0}
    for group in batches(sizes, width):
        lattice = Lattice([frames[i] for i in group], [texts[i] for i in group], blank, width)
        for i, places_T in zip(group, lattice.traced(), strict=True):
            found[i] = places_T
    return found


def batches(sizes: dict[int, tuple[int, int]], width: int) -> Iterator[list[int]]:
    """Some (frames, states) in groups of at most CELLS, those of which a band of `width` is kept alone."""
    held: list[int] = []
    for i in sorted(sizes, key=lambda i: sizes[i]):
        longest, most = sizes[i][0], max(sizes[j][1] for j in (*held, i))
        if held and (most > width or longest * most * (len(held) + 1) > CELLS):
            yield held
            held = []
        held.append(i)
    if held:
        yield held


class Lattice:
    """The states of some texts over their frames, and by how many states the best way to each came forward. B texts, S states, of
    which W are kept, from offsets_T on in each frame; a band narrower than S is that of a single text."""

    def __init__(self, frames: Sequence[np.ndarray], texts: Sequence[Sequence[int]], blank: int, width: int) -> None:
        self.frames, self.counts_B = frames, np.array([len(frames_TV) for frames_TV in frames])
        self.sizes_B = np.array([2 * len(text) + 1 for text in texts])
        shape = len(texts), int(self.sizes_B.max())
        self.labels_BS = np.full(shape, blank)
        for row, text in enumerate(texts):
            self.labels_BS[row, 1 : 2 * len(text) : 2] = text
        self.skips_BS = np.full(shape, NEVER)  # a blank between two symbols may be left out if they differ
        self.skips_BS[:, 3::2][self.labels_BS[:, 3::2] != self.labels_BS[:, 1:-2:2]] = 0.0
        width = min(shape[1], width)
        self.back_TBW = np.zeros((int(self.counts_B.max()), len(texts), width), np.uint8)
        self.offsets_T = np.zeros(len(self.back_TBW), np.int64)
        self.last_BW = self.run(width)

    def run(self, width: int) -> np.ndarray:
        """Fill back_TBW; returns the scores (B, W) of the states in the last frame of each text."""
        frames_TBV = np.zeros((len(self.back_TBW), len(self.frames), self.frames[0].shape[1]))
        for row, frames_TV in enumerate(self.frames):
            frames_TBV[: len(frames_TV), row] = frames_TV
        states, offset = self.labels_BS.shape[1], 0
        places_BS = self.labels_BS + np.arange(len(self.frames))[:, None] * frames_TBV.shape[2]  # in a frame as one row
        held_BW = np.full((len(self.frames), width + 2), NEVER)  # the scores, after those of the two states before them
        held_BW[:, 2:4] = np.take_along_axis(frames_TBV[0], self.labels_BS[:, :2], axis=1)
        last_BW = held_BW[:, 2:].copy()
        ends = set(self.counts_B.tolist())
        for t in range(1, len(frames_TBV)):
            if (
                width < states
                and (moved := min(int(held_BW[0, 2:].argmax()) - width // 2, states - width - offset)) > 0
            ):
                held_BW = np.pad(held_BW[:, moved:], ((0, 0), (0, moved)), constant_values=NEVER)
                offset += moved
            own = slice(offset, offset + width)
            stay_BW, next_BW, skip_BW = held_BW[:, 2:], held_BW[:, 1:-1], held_BW[:, :-2] + self.skips_BS[:, own]
            best_BW = np.maximum(stay_BW, next_BW)
            back_BW = self.back_TBW[t]
            np.greater(next_BW, stay_BW, out=back_BW, casting="unsafe")
            back_BW[skip_BW > best_BW] = 2
            held_BW[:, 2:] = np.maximum(best_BW, skip_BW) + frames_TBV[t].take(places_BS[:, own])
            held_BW[:, :2] = NEVER
            self.offsets_T[t] = offset
            if t + 1 in ends:
                ended_B = self.counts_B == t + 1
                last_BW[ended_B] = held_BW[ended_B, 2:]
        return last_BW

    def traced(self) -> list[np.ndarray | None]:
        """The best way through the states of each text, as in `viterbi`."""
        rows_B, ends_B = np.arange(len(self.frames)), self.sizes_B - 1 - self.offsets_T[self.counts_B - 1]
        ends_2B = np.stack([ends_B, np.maximum(ends_B - 1, 0)])  # in a blank, or in the last symbol
        inside_2B = np.where(
            ends_2B < self.last_BW.shape[1], self.last_BW[rows_B, np.minimum(ends_2B, self.last_BW.shape[1] - 1)], NEVER
        )
        state_B = ends_2B[inside_2B.argmax(axis=0), rows_B] + self.offsets_T[self.counts_B - 1]
        places_TB = np.full(self.back_TBW.shape[:2], -1)
        for t in range(len(places_TB) - 1, -1, -1):
            live_B = rows_B[t < self.counts_B]
            state = state_B[live_B]
            places_TB[t, live_B] = np.where(state % 2, state // 2, -1)
            state_B[live_B] -= self.back_TBW[t, live_B, state - self.offsets_T[t]]
        reached_B = inside_2B.max(axis=0) > NEVER
        return [places_TB[: self.counts_B[row], row] if reached_B[row] else None for row in rows_B]


def path_of(log_probs_TV: Tensor, tokens: Sequence[int], blank: int) -> Tensor:
    """The symbol or blank of each frame (T,) in the best alignment of `tokens`; all blanks if there is none."""
    places_T = viterbi([log_probs_TV.double().numpy()], [tokens], blank)[0] if tokens else None
    if places_T is None:
        return torch.full((len(log_probs_TV),), blank)
    return torch.from_numpy(np.where(places_T >= 0, np.array(tokens)[places_T], blank))


class Clip(NamedTuple):
    """What is aligned. words: (as it is printed, as the model spells it). excess_F: how far the sound stands out
    (sound/levels.py), which tells where words begin and end; None: words reach from their first frame to their last."""

    log_probs_TV: Tensor
    words: Sequence[tuple[str, str]]
    excess_F: np.ndarray | None = None


def align(
    clips: Sequence[Clip], tokenizer: CharTokenizer, geometry: Geometry, silence: float = 0.0
) -> list[Transcript | None]:
    """The times of the words of some clips; None for a text that does not fit into its frames.

    What the vocabulary cannot spell, one symbol or several, takes the letters that are likeliest there; a word without any
    symbol has no length. silence: as in decode.spell.
    """
    signs = [token for token in (tokenizer.blank, tokenizer.delimiter) if token is not None]
    frames = [with_anything(clip.log_probs_TV.double().numpy(), signs) for clip in clips]
    spelled = [spelling(clip.words, tokenizer, frames_TV.shape[1] - 1) for clip, frames_TV in zip(clips, frames)]
    found = viterbi(frames, [tokens for tokens, _ in spelled], tokenizer.blank)
    return [
        None if places_T is None else timed(clip, frames_TV, places_T, *spelt, tokenizer, geometry, silence)
        for clip, frames_TV, places_T, spelt in zip(clips, frames, found, spelled, strict=True)
    ]


def with_anything(frames_TV: np.ndarray, signs: Sequence[int]) -> np.ndarray:
    """Frames with a further symbol, as likely as the likeliest one that is no sign, such as the blank."""
    return np.concatenate([frames_TV, np.delete(frames_TV, signs, axis=1).max(axis=1, keepdims=True)], axis=1)


def spelling(
    words: Sequence[tuple[str, str]], tokenizer: CharTokenizer, anything: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """The symbols of words, with delimiters between them, and where those of each word begin and stop. What the vocabulary
    lacks is one symbol `anything`, however long it is."""
    tokens: list[int] = []
    spans: list[tuple[int, int]] = []
    for _, spelled in words:
        symbols = [tokenizer.vocab.get(symbol, anything) for symbol in tokenizer.split(spelled)]
        own = [token for token, before in zip(symbols, [-1, *symbols]) if token != anything or before != anything]
        if own and tokens and tokenizer.delimiter is not None:
            tokens.append(tokenizer.delimiter)
        spans.append((len(tokens), len(tokens) + len(own)))
        tokens.extend(own)
    return tokens, spans


def timed(
    clip: Clip,
    frames_TV: np.ndarray,
    places_T: np.ndarray,
    tokens: Sequence[int],
    spans: Sequence[tuple[int, int]],
    tokenizer: CharTokenizer,
    geometry: Geometry,
    silence: float,
) -> Transcript:
    """From the place in the text of each frame to the times of its words and letters."""
    hop, field = geometry.hop / SAMPLE_RATE, geometry.receptive_field / SAMPLE_RATE
    duration = len(frames_TV) * hop + field - hop - 2 * silence
    spoken_T = np.flatnonzero(places_T >= 0)
    begins_P = np.searchsorted(places_T[spoken_T], np.arange(len(tokens)))
    firsts_P = spoken_T[begins_P]
    stops_P = firsts_P + np.bincount(places_T[spoken_T], minlength=len(tokens))
    scores_T = frames_TV[spoken_T, np.array(tokens, np.int64)[places_T[spoken_T]]]
    scores_P = np.exp(np.maximum.reduceat(scores_T, begins_P))

    def word(text: str, first: int, stop: int) -> Word:
        edges = (
            (firsts_P[first], stops_P[stop - 1]) if stop > first else (np.append(firsts_P, len(frames_TV))[first],) * 2
        )
        start, end = (round(float(np.clip(edge * hop + (field - hop) / 2 - silence, 0, duration)), 3) for edge in edges)
        return Word(
            text=text, start=start, end=end, score=round(float(scores_P[first:stop].mean()), 4) if stop > first else 0.0
        )

    words = [word(text, *span) for (text, _), span in zip(clip.words, spans, strict=True)]
    letters = [[word(tokenizer.symbol(tokens[p]) or "*", p, p + 1) for p in range(*span)] for span in spans]
    if clip.excess_F is not None:
        words = widened(words, clip.excess_F, duration)
        letters = [stretched(own, one) for own, one in zip(letters, words, strict=True)]
    text = " ".join(text for text, _ in clip.words)
    return Transcript(text=text, words=words, duration=duration, letters=list(chain.from_iterable(letters)))


def stretched(letters: Sequence[Word], word: Word) -> list[Word]:
    """The letters of a word, one after the other without gaps from its beginning to its end."""
    inner = [round((before.end + after.start) / 2, 3) for before, after in pairwise(letters)]
    edges = np.clip([word.start, *inner, word.end], word.start, word.end).tolist()
    return [replace(letter, start=a, end=b) for letter, (a, b) in zip(letters, pairwise(edges), strict=False)]
