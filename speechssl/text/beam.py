"""CTC prefix beam search (Hannun et al. 2014) with a language model, a lexicon and hot words, over numpy arrays.

A prefix is a node of a tree of symbols; its probability is the sum over its alignments, in two parts: those that end in a blank
and those that end in its last symbol. Delimiters before, between and after words count once, however many there are. Each
frame is computed for all prefixes of the beam and all symbols at once; what a language model says of a word is looked up once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry
from speechssl.text.align import path_of
from speechssl.text.decode import spell
from speechssl.text.lexicon import HotWords, Lexicon
from speechssl.text.ngram import END, LanguageModel
from speechssl.text.tokenizer import DELIMITER, CharTokenizer
from speechssl.text.transcript import Transcript

LEAST = -12.0  # log-probabilities of symbols below this are not tried in a frame
HOPELESS = 25.0  # nats behind the best text
SURE = math.log(0.9999)  # a blank as likely as this leaves all prefixes as they are
PIECE = 1500  # frames (30 s), after which a long recording is cut in a pause
NEVER = -np.inf


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A text. score: what the search maximises, acoustic + the weighted rest. acoustic, lm: natural log-probabilities.
    tokens: its symbols. path_T: the symbol or blank of each frame, of the best text."""

    text: str
    score: float
    acoustic: float
    lm: float
    tokens: tuple[int, ...] = ()
    path_T: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to decode. beam: prefixes that are kept. lm_weight: factor on the language model. word_score: is added for every
    word, against the model's preference for few. lexicon: the only words there are. hot: words that are made likelier.
    n_best: how many texts a transcript holds."""

    beam: int = 100
    lm: LanguageModel | None = None
    lm_weight: float = 0.5
    word_score: float = 1.0
    lexicon: Lexicon | None = None
    hot: HotWords = field(default_factory=HotWords)
    n_best: int = 1

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise InputError(f"--beam {self.beam} must be at least 1; 100 is usual")
        if not 1 <= self.n_best <= self.beam:
            raise InputError(f"--n-best {self.n_best} is outside 1 ... {self.beam}, the texts that the search keeps")

    def __str__(self) -> str:
        parts = [f"beam of {self.beam}"]
        if self.lm is not None:
            parts.append(f"{self.lm}, weight {self.lm_weight:g}, word score {self.word_score:g}")
        if self.lexicon is not None:
            parts.append(f"lexicon of {len(self.lexicon.words)} words")
        if self.hot:
            parts.append("hot words " + ", ".join(f"{word}={boost:g}" for word, boost in self.hot.boosts.items()))
        return "; ".join(parts)


@dataclass(slots=True)
class Prefix:
    """A node of the tree. score: of its words by language model and hot words, which is added to its probability. lm: the sum
    of the language model's log-probabilities. state: of the language model after the last whole word. word: what was spelled
    since. place: of that in the lexicon. boost: for the beginning of a hot word."""

    parent: int
    token: int
    score: float
    lm: float
    state: Any
    word: str
    place: int
    boost: float = 0.0


class Beam:
    """One search over the frames of a recording."""

    def __init__(self, search: Search, tokenizer: CharTokenizer, state: Any = None) -> None:
        """state: of the language model before the first word; None: the beginning of a sentence. InputError for a model of
        words where the vocabulary has no word delimiter."""
        self.search, self.tokenizer, self.lm = search, tokenizer, search.lm
        self.chars = self.lm is not None and self.lm.units == "chars"
        self.blank, self.space = tokenizer.blank, tokenizer.delimiter
        self.parts = [tokenizer.symbol(i) for i in range(len(tokenizer))]
        if self.space is None and self.lm is not None and not self.chars and not tokenizer.writing.phones:
            raise InputError(
                "this vocabulary cannot write spaces, so a language model of words cannot be used; build one of characters: "
                "`speechssl build-lm text.txt --units chars`"
            )
        begin = self.lm.start() if self.lm is not None and state is None else state
        root = -1 if self.space is None else self.space  # a text begins as if after a delimiter
        self.nodes = [Prefix(-1, root, 0.0, 0.0, begin, "", 0)]
        self.ids_B = np.zeros(1, np.int64)
        self.blank_B, self.last_B = np.zeros(1), np.full(1, NEVER)
        self.children: dict[tuple[int, int], int] = {}
        self.grown: dict[tuple[int, int], Prefix | None] = {}
        silent = [i for i, part in enumerate(self.parts) if not part and i not in (self.blank, self.space)]
        self.usable_V = np.ones(len(tokenizer), bool)
        self.usable_V[[self.blank, *silent]] = False

    def feed(self, log_probs_TV: np.ndarray) -> None:
        """Go on over frames."""
        for frame_V in log_probs_TV:
            if frame_V[self.blank] > SURE:
                self.blank_B = np.logaddexp(self.blank_B, self.last_B) + frame_V[self.blank]
                self.last_B = np.full(len(self.ids_B), NEVER)
            else:
                self.step(frame_V)

    def step(self, frame_V: np.ndarray) -> None:
        """One frame: every prefix stays, or grows by a symbol; the best of all are the new beam."""
        last_B = np.array([self.nodes[i].token for i in self.ids_B])
        total_B = np.logaddexp(self.blank_B, self.last_B)
        stay_blank_B = total_B + frame_V[self.blank]
        stay_last_B = np.where(last_B >= 0, self.last_B + frame_V[last_B], NEVER)
        spaced_B = last_B == self.space
        if self.space is not None:
            stay_last_B = np.where(spaced_B, total_B + frame_V[self.space], stay_last_B)

        tried_C = np.flatnonzero(self.usable_V & (frame_V > LEAST))
        grown_BC = total_B[:, None] + frame_V[tried_C]
        again = last_B[:, None] == tried_C
        grown_BC = np.where(again, self.blank_B[:, None] + frame_V[tried_C], grown_BC)
        grown_BC[again & spaced_B[:, None]] = NEVER
        place_of = {symbol: place for place, symbol in enumerate(tried_C.tolist())}
        row_of = {node: row for row, node in enumerate(self.ids_B.tolist())}
        for row, node in enumerate(
            self.ids_B.tolist()
        ):  # a prefix whose beginning is in the beam too is reached from there
            above, place = row_of.get(self.nodes[node].parent), place_of.get(int(last_B[row]))
            if above is not None and place is not None:
                stay_last_B[row] = np.logaddexp(stay_last_B[row], grown_BC[above, place])
                grown_BC[above, place] = NEVER

        stays_B = np.logaddexp(stay_blank_B, stay_last_B) + self.scores(self.ids_B)
        ranked_BC = grown_BC + self.bonuses(tried_C)
        ranked = np.concatenate([stays_B, ranked_BC.ravel()])
        keep = min(self.search.beam, int(np.isfinite(ranked).sum()))
        if not keep:
            return
        best = np.argpartition(-ranked, keep - 1)[:keep]
        best = best[ranked[best] >= ranked.max() - HOPELESS]
        best = best[np.argsort(-ranked[best], kind="stable")]
        count = len(self.ids_B)
        ids, blanks, lasts = [], [], []
        for index in best.tolist():
            if index < count:
                ids.append(int(self.ids_B[index]))
                blanks.append(stay_blank_B[index])
                lasts.append(stay_last_B[index])
            else:
                row, place = divmod(index - count, len(tried_C))
                ids.append(self.child(int(self.ids_B[row]), int(tried_C[place])))
                blanks.append(NEVER)
                lasts.append(grown_BC[row, place])
        self.ids_B, self.blank_B, self.last_B = np.array(ids), np.array(blanks), np.array(lasts)

    def scores(self, ids_B: np.ndarray) -> np.ndarray:
        """What model, lexicon and hot words make of some prefixes, those of words that are not yet whole included."""
        return np.array([self.nodes[i].score + self.nodes[i].boost for i in ids_B.tolist()])

    def bonuses(self, tried_C: np.ndarray) -> np.ndarray:
        """The same of the prefixes of the beam grown by each symbol: (B, C)."""
        found = np.empty((len(self.ids_B), len(tried_C)))
        symbols = tried_C.tolist()
        plain = not (self.chars or self.search.lexicon or self.search.hot)
        for row, node in enumerate(self.ids_B.tolist()):
            if plain:
                found[row] = self.nodes[node].score
                if self.space is not None and self.space in symbols:
                    found[row, symbols.index(self.space)] = self.worth(node, self.space)
            else:
                found[row] = [self.worth(node, symbol) for symbol in symbols]
        return found

    def worth(self, node: int, token: int) -> float:
        """The score of a prefix grown by a symbol."""
        if (node, token) not in self.grown:
            self.grown[node, token] = self.grow(node, token)
        grown = self.grown[node, token]
        return NEVER if grown is None else grown.score + grown.boost

    def child(self, node: int, token: int) -> int:
        """The number of a prefix grown by a symbol, which becomes a node if it is none yet."""
        number = self.children.get((node, token))
        if number is None:
            grown = self.grown.get((node, token)) or self.grow(node, token)
            assert grown is not None  # it would have been no candidate
            number = self.children[node, token] = len(self.nodes)
            self.nodes.append(grown)
        return number

    def grow(self, node: int, token: int) -> Prefix | None:
        """A prefix grown by a symbol; None if the lexicon has no such word."""
        before, part = self.nodes[node], self.parts[token]
        if self.tokenizer.writing.phones:
            whole = self.word_after(before, part)
            return whole and Prefix(node, token, whole.score, whole.lm, whole.state, "", 0)
        if token == self.space:
            ended = self.end_word(before)
            return ended and Prefix(node, token, ended.score, ended.lm, ended.state, "", 0)
        place = before.place
        if self.search.lexicon is not None:
            place = self.search.lexicon.after(place, part)
            if place < 0:
                return None
        word = before.word + part
        if self.chars:
            text = DELIMITER + part if before.token == self.space and before.parent >= 0 else part
            state, lm = self.spelled(before.state, text)
            score = before.score + self.search.lm_weight * lm + self.search.word_score * len(text)
            return Prefix(node, token, score, before.lm + lm, state, word, place, self.search.hot.partly(word))
        return Prefix(node, token, before.score, before.lm, before.state, word, place, self.search.hot.partly(word))

    def spelled(self, state: Any, text: str) -> tuple[Any, float]:
        """(state, log-probability) of characters in a model of these."""
        assert self.lm is not None
        total = 0.0
        for letter in text:
            state, score = self.lm.score(state, letter)
            total += score
        return state, total

    def end_word(self, before: Prefix) -> Prefix | None:
        """A prefix after a word delimiter; None if the lexicon has no such word. A model of characters is asked about a
        delimiter when a letter follows."""
        if not before.word:
            return before
        if self.search.lexicon is not None and not self.search.lexicon.ends(before.place):
            return None
        if self.chars:
            score = before.score + self.search.hot.whole(before.word)
            return Prefix(-1, -1, score, before.lm, before.state, "", 0)
        return self.word_after(before, before.word)

    def word_after(self, before: Prefix, word: str) -> Prefix:
        """A prefix with a whole word more."""
        state, lm = (None, 0.0) if self.lm is None else self.lm.score(before.state, word)
        weighted = self.search.lm_weight * lm + self.search.word_score if self.lm is not None else 0.0
        return Prefix(-1, -1, before.score + weighted + self.search.hot.whole(word), before.lm + lm, state, "", 0)

    def best(self, most: int = 1, last: bool = True) -> list[tuple[Hypothesis, Any]]:
        """The best texts and the states of the language model after them; last: whether the sentence ends here."""
        found: dict[str, tuple[Hypothesis, Any]] = {}
        for node, acoustic in zip(self.ids_B.tolist(), np.logaddexp(self.blank_B, self.last_B).tolist(), strict=True):
            ended = self.end_word(self.nodes[node])
            if ended is None:
                continue
            lm, score, state = ended.lm, ended.score, ended.state
            if last and self.lm is not None:
                state, more = self.lm.score(state, END)
                lm, score = lm + more, score + self.search.lm_weight * more
            tokens = self.spelling(node)
            text = self.tokenizer.decode(tokens)
            if text in found:  # with and without a delimiter at the end
                acoustic = float(np.logaddexp(acoustic, found[text][0].acoustic))
            one = Hypothesis(text=text, score=acoustic + score, acoustic=acoustic, lm=lm, tokens=tokens)
            found[text] = one, state
        return sorted(found.values(), key=lambda pair: -pair[0].score)[:most]

    def spelling(self, node: int) -> tuple[int, ...]:
        """The symbols of a prefix."""
        tokens = []
        while node > 0:
            tokens.append(self.nodes[node].token)
            node = self.nodes[node].parent
        return tuple(reversed(tokens))


def decode(log_probs_TV: Tensor, tokenizer: CharTokenizer, search: Search) -> list[Hypothesis]:
    """The best texts of log-posteriors (T, V), the likeliest first.

    A long recording is decoded in pieces of about 30 s, cut in its longest pauses; the language model goes on over the cuts. Of
    several pieces there is one text.
    """
    frames_TV = log_probs_TV.double().numpy()
    cuts = cuts_of(frames_TV[:, tokenizer.blank])
    state, done = None, []
    for first, stop in zip([0, *cuts], [*cuts, len(frames_TV)], strict=True):
        beam = Beam(search, tokenizer, state)
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
