"""All decoders behind one function: log-posteriors in, the likeliest texts out."""

import importlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry
from speechssl.text.align import path_of
from speechssl.text.beam import NEVER, Beam
from speechssl.text.decode import collapse, spell
from speechssl.text.search import DECODERS, Hypothesis, Search
from speechssl.text.tokenizer import CharTokenizer
from speechssl.text.transcript import Transcript

PIECE = 1500  # frames (30 s), after which a long recording is cut in a pause


class Greedy(Beam):
    """The best symbol of each frame."""

    def feed(self, log_probs_TV: np.ndarray) -> None:
        """All frames at once."""
        scores_T, tokens_T = torch.from_numpy(log_probs_TV).max(dim=1)
        for run in collapse(tokens_T, self.blank):
            node = int(self.ids_B[0])
            if self.usable_V[run.token] and not run.token == self.nodes[node].token == self.space:
                self.ids_B = np.array([self.child(node, run.token)])
        self.blank_B = scores_T.sum(dim=0, keepdim=True).numpy()


def decode(given_TV: Tensor | np.ndarray, tokenizer: CharTokenizer, search: Search | None = None) -> list[Hypothesis]:
    """The best texts of log-posteriors (T, V) in the order of the vocabulary's ids, the likeliest first. search: None: greedy.

    A long recording is decoded in pieces of about 30 s, cut in its longest pauses; the language model goes on over the cuts. Of
    several pieces there is one text. InputError for what are no log-posteriors of this vocabulary.
    """
    search = search or Search(decoder="greedy")
    module, _, name = DECODERS[search.decoder].partition(":")
    kind: type[Beam] = getattr(importlib.import_module(module), name)
    log_probs_TV = checked(given_TV, tokenizer)
    frames_TV = log_probs_TV.double().numpy()
    cuts = cuts_of(frames_TV[:, tokenizer.blank])
    state, done = None, []
    for first, stop in zip([0, *cuts], [*cuts, len(frames_TV)], strict=True):
        beam = kind(search, tokenizer, state)
        beam.feed(frames_TV[first:stop])
        ranked = beam.best(search.n_best if not cuts else 1, last=stop == len(frames_TV))
        if not ranked:  # no word of the lexicon fits
            ranked = [(Hypothesis(text="", score=NEVER, acoustic=NEVER, lm=0.0), state)]
        first_best = replace(
            ranked[0][0], path_T=path_of(log_probs_TV[first:stop], ranked[0][0].tokens, tokenizer.blank)
        )
        done.append([first_best, *(hypothesis for hypothesis, _ in ranked[1:])])
        state = ranked[0][1]
    return done[0] if len(done) == 1 else [joined([piece[0] for piece in done], tokenizer)]


def checked(log_probs_TV: Any, tokenizer: CharTokenizer) -> Tensor:
    """Log-posteriors, a tensor or an array. InputError for other shapes and for values that are no logarithms."""
    found_TV = torch.as_tensor(log_probs_TV).cpu()
    if found_TV.ndim != 2 or found_TV.shape[1] != len(tokenizer):
        raise InputError(
            f"posteriors of the shape {tuple(found_TV.shape)} are none of this vocabulary; give (frames, {len(tokenizer)})"
        )
    if len(wrong := torch.nonzero(~(found_TV <= 0.01))):
        frame, symbol = wrong[0].tolist()
        raise InputError(
            f"the log-posterior of frame {frame}, symbol {symbol} is {found_TV[frame, symbol]:g}, which is no logarithm of a "
            "probability; give the logarithms of a softmax, as model.log_probs does"
        )
    return found_TV


def cuts_of(blank_T: np.ndarray) -> list[int]:
    """Frames at which a long recording is cut: after at most PIECE frames, in the middle of the longest run of blanks of the
    last half of these."""
    cuts, first = [], 0
    while len(blank_T) - first > PIECE * 4 // 3:
        window = blank_T[first + PIECE // 2 : first + PIECE]
        likely = np.flatnonzero(window >= min(math.log(0.5), window.max()))
        longest = max(np.split(likely, np.flatnonzero(np.diff(likely) > 1) + 1), key=len)
        first += PIECE // 2 + int(longest[len(longest) // 2])
        cuts.append(first)
    return cuts


def joined(pieces: Sequence[Hypothesis], tokenizer: CharTokenizer) -> Hypothesis:
    """The pieces of a long recording as one text."""
    return Hypothesis(
        text=tokenizer.separator.join(piece.text for piece in pieces if piece.text),
        score=sum(piece.score for piece in pieces),
        acoustic=sum(piece.acoustic for piece in pieces),
        lm=sum(piece.lm for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        path_T=torch.cat([piece.path_T for piece in pieces if piece.path_T is not None]),
    )


def transcript_of(
    log_probs_TV: Tensor,
    tokenizer: CharTokenizer,
    geometry: Geometry,
    search: Search,
    silence: float = 0.0,
) -> Transcript:
    """The best text of log-posteriors (T, V) with the times of its words; silence: as in `spell`."""
    ranked = decode(log_probs_TV, tokenizer, search)
    path_T = ranked[0].path_T
    assert path_T is not None
    scores_T = log_probs_TV.gather(1, path_T[:, None])[:, 0].exp()
    found = spell(path_T, scores_T, tokenizer, geometry, silence)
    return replace(found, text=ranked[0].text, best=ranked if search.n_best > 1 else [])
