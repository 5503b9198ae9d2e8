"""Forced alignment: the likeliest place of given symbols in CTC posteriors (Graves et al. 2006; Kürzinger et al. 2020).

The states of a text are its symbols with a blank before, between and after them. Of a long text only those near the best one so
far are kept, so memory grows with the length of the recording, not with its square.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core.packed import Geometry
from speechssl.text.decode import SAMPLE_RATE
from speechssl.text.tokenizer import CharTokenizer
from speechssl.text.transcript import Transcript, Word

WIDTH = 4000  # states, half of them symbols: two minutes of speech; shorter texts are aligned exactly
NEVER = -np.inf


def viterbi(
    frames: Sequence[np.ndarray], texts: Sequence[Sequence[int]], blank: int, width: int = WIDTH
) -> list[np.ndarray | None]:
    """The best alignment (T,) of each text with its frames (T, V): the place in the text of the symbol of each frame, -1 for a
    blank. None if there is none, as of more symbols than frames. Texts that need no band are computed together."""
    found: list[np.ndarray | None] = [None] * len(frames)
    usable = [i for i, (frames_TV, text) in enumerate(zip(frames, texts, strict=True)) if len(text) <= len(frames_TV)]
    short = [i for i in usable if 2 * len(texts[i]) < width and len(frames[i])]
    for group in [short, *([i] for i in usable if 2 * len(texts[i]) >= width)]:
        if group:
            lattice = Lattice([frames[i] for i in group], [texts[i] for i in group], blank, width)
            for i, places_T in zip(group, lattice.traced(), strict=True):
                found[i] = places_T
    return found


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
        score_BW = np.full(self.back_TBW.shape[1:], NEVER)
        score_BW[:, :2] = np.take_along_axis(frames_TBV[0], self.labels_BS[:, :2], axis=1)
        last_BW = score_BW.copy()
        for t in range(1, len(frames_TBV)):
            moved = max(0, min(int(score_BW[0].argmax()) - width // 2, states - width - offset)) if width < states else 0
            offset += moved
            padded_BW = np.pad(score_BW, ((0, 0), (2, moved)), constant_values=NEVER)[:, moved:]
            own = slice(offset, offset + width)
            score_BW, next_BW, skip_BW = padded_BW[:, 2:], padded_BW[:, 1:-1], padded_BW[:, :-2] + self.skips_BS[:, own]
            self.back_TBW[t] = next_BW > score_BW
            score_BW = np.maximum(score_BW, next_BW)
            self.back_TBW[t][skip_BW > score_BW] = 2
            score_BW = np.maximum(score_BW, skip_BW) + np.take_along_axis(frames_TBV[t], self.labels_BS[:, own], axis=1)
            self.offsets_T[t] = offset
            ended_B = self.counts_B == t + 1
            last_BW[ended_B] = score_BW[ended_B]
        return last_BW

    def traced(self) -> list[np.ndarray | None]:
        """The best way through the states of each text, as in `viterbi`."""
        rows_B, ends_B = np.arange(len(self.frames)), self.sizes_B - 1 - self.offsets_T[self.counts_B - 1]
        ends_2B = np.stack([ends_B, np.maximum(ends_B - 1, 0)])  # in a blank, or in the last symbol
        inside_2B = np.where(ends_2B < self.last_BW.shape[1], self.last_BW[rows_B, np.minimum(ends_2B, self.last_BW.shape[1] - 1)], NEVER)
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


def align(
    log_probs_TV: Tensor,
    words: Sequence[tuple[str, str]],
    tokenizer: CharTokenizer,
    geometry: Geometry,
    silence: float = 0.0,
) -> Transcript | None:
    """The times of given words; None if they do not fit into the frames. words: (as it is printed, as the model spells it).

    What the vocabulary cannot spell, one symbol or several, takes the letters that are likeliest there; a word without any
    symbol has no length. silence: as in decode.spell.
    """
    frames_TV = log_probs_TV.double().numpy()
    signs = [token for token in (tokenizer.blank, tokenizer.delimiter) if token is not None]
    anything: int = frames_TV.shape[1]
    others_T1 = np.delete(frames_TV, signs, axis=1).max(axis=1, keepdims=True)
    frames_TV = np.concatenate([frames_TV, others_T1], axis=1)
    tokens: list[int] = []
    spans: list[tuple[int, int]] = []
    between = tokenizer.delimiter
    for _, spelled in words:
        symbols = [tokenizer.vocab.get(symbol, anything) for symbol in tokenizer.split(spelled)]
        own = [token for token, before in zip(symbols, [-1, *symbols]) if token != anything or before != anything]
        if own and tokens and between is not None:
            tokens.append(between)
        spans.append((len(tokens), len(tokens) + len(own)))
        tokens.extend(own)
    places_T = viterbi([frames_TV], [tokens], tokenizer.blank)[0]
    if places_T is None:
        return None
    hop, field = geometry.hop / SAMPLE_RATE, geometry.receptive_field / SAMPLE_RATE
    duration = len(frames_TV) * hop + field - hop - 2 * silence
    firsts = np.searchsorted(filled(places_T), np.arange(len(tokens)))

    def word(text: str, first: int, stop: int) -> Word:
        frames = np.flatnonzero((places_T >= first) & (places_T < stop)) if stop > first else np.array([], np.int64)
        if not len(frames):
            edge = float(firsts[first]) * hop + field / 2 if first < len(firsts) else duration + silence
            return Word(text=text, start=clip(edge), end=clip(edge), score=0.0)
        scores = [frames_TV[frames[places_T[frames] == place], tokens[place]].max() for place in range(first, stop)]
        start, end = frames[0] * hop + field / 2 - hop / 2, (frames[-1] + 1) * hop + field / 2 - hop / 2
        return Word(text=text, start=clip(start), end=clip(end), score=round(float(np.exp(scores).mean()), 4))

    def clip(time: Any) -> float:
        return round(float(min(max(0.0, time - silence), duration)), 3)

    found = [word(text, *span) for (text, _), span in zip(words, spans, strict=True)]
    spelled = [(place, token) for place, token in enumerate(tokens) if token != between]
    letters = [word(tokenizer.symbol(token) or "*", place, place + 1) for place, token in spelled]
    return Transcript(text=" ".join(text for text, _ in words), words=found, duration=duration, letters=letters)


def filled(places_T: np.ndarray) -> np.ndarray:
    """The places with blanks counted to the symbol before them: they never fall."""
    return np.maximum.accumulate(places_T)
