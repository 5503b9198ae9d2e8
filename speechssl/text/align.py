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


def viterbi(frames_TV: np.ndarray, tokens: Sequence[int], blank: int, width: int = WIDTH) -> np.ndarray | None:
    """The best alignment (T,): the place in `tokens` of the symbol of each frame, -1 for a blank. None if there is none, as of
    more symbols than frames."""
    size, count = 2 * len(tokens) + 1, len(frames_TV)
    labels_S = np.full(size, blank)
    labels_S[1::2] = tokens
    skips_S = np.zeros(size, bool)  # a blank between two symbols may be left out if they differ
    skips_S[3::2] = labels_S[3::2] != labels_S[1:-2:2]
    width = min(size, width)
    if not count:
        return None
    back_TW, offsets_T = np.zeros((count, width), np.uint8), np.zeros(count, np.int64)
    score_W, offset = np.full(width, NEVER), 0
    score_W[:2] = frames_TV[0, labels_S[:2]][:width]
    for t in range(1, count):
        moved = min(max(offset, offset + int(score_W.argmax()) - width // 2), size - width) - offset
        padded = np.concatenate([[NEVER, NEVER], score_W, np.full(moved, NEVER)])
        offset += moved
        own = slice(offset, offset + width)
        before_3W = np.stack([padded[moved + 2 - step : moved + 2 - step + width] for step in (0, 1, 2)])
        before_3W[2, ~skips_S[own]] = NEVER
        back_TW[t] = before_3W.argmax(axis=0)
        offsets_T[t] = offset
        score_W = before_3W.max(axis=0) + frames_TV[t, labels_S[own]]
    last = [state for state in (size - 1, size - 2) if 0 <= state - offset < width]
    state = max(last, key=lambda one: score_W[one - offset], default=-1)
    if state < 0 or score_W[state - offset] == NEVER:
        return None
    places_T = np.empty(count, np.int64)
    for t in range(count - 1, -1, -1):
        places_T[t] = state // 2 if state % 2 else -1
        state -= int(back_TW[t, state - offsets_T[t]])
    return places_T


def path_of(log_probs_TV: Tensor, tokens: Sequence[int], blank: int) -> Tensor:
    """The symbol or blank of each frame (T,) in the best alignment of `tokens`; all blanks if there is none."""
    places_T = viterbi(log_probs_TV.double().numpy(), tokens, blank) if tokens else None
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
    places_T = viterbi(frames_TV, tokens, tokenizer.blank)
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
