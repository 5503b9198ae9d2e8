"""CTC prefix beam search (Hannun et al. 2014) with a language model, a lexicon and hot words, over numpy arrays.

A prefix is a node of a tree of symbols; its probability is the sum over its alignments, in two parts: those that end in a blank
and those that end in its last symbol. Delimiters before, between and after words count once, however many there are. Each
frame is computed for all prefixes of the beam and all symbols at once; what a language model says of a word is looked up once.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.text.lexicon import ROOT, fit_hot, fit_lexicon, lacking, spelled
from speechssl.text.ngram import BEGIN, END, UNKNOWN, Ngram
from speechssl.text.search import Hypothesis, Search
from speechssl.text.tokenizer import DELIMITER, CharTokenizer

LEAST = -12.0  # log-probabilities of symbols below this are not tried in a frame
HOPELESS = 25.0  # nats behind the best text
SURE = math.log(0.9999)  # a blank as likely as this leaves all prefixes as they are
NEVER = -np.inf


@dataclass(slots=True)
class Prefix:
    """A node of the tree. score: of its words by language model and hot words, which is added to its probability. lm: the sum
    of the language model's log-probabilities. state: of the language model after the last whole word. word: what was spelled
    since. places: of that in the lexicon. said: the whole words with which a hot phrase may have begun. boost: for the
    beginning of a hot word."""

    parent: int
    token: int
    score: float
    lm: float
    state: Any
    word: str
    places: frozenset[int] = ROOT
    said: str = ""
    boost: float = 0.0


class Beam:
    """One search over the frames of a recording."""

    def __init__(self, search: Search, tokenizer: CharTokenizer, state: Any = None) -> None:
        """state: of the language model before the first word; None: the beginning of a sentence. InputError for a model of
        words where the vocabulary has no word delimiter."""
        self.search, self.tokenizer, self.lm = search, tokenizer, search.lm
        self.lexicon = fit_lexicon(search.lexicon, tokenizer) if search.lexicon else None
        self.hot = fit_hot(tuple(search.hot.boosts.items()), tokenizer)
        self.chars = self.lm is not None and self.lm.units == "chars"
        self.blank, self.space = tokenizer.blank, tokenizer.delimiter
        self.parts = [tokenizer.symbol(i) for i in range(len(tokenizer))]
        if self.space is None and self.lm is not None and not self.chars and not tokenizer.writing.phones:
            raise InputError(
                "this vocabulary cannot write spaces, so a language model of words cannot be used; build one of characters: "
                "`speechssl build-lm text.txt --units chars`"
            )
        if isinstance(self.lm, Ngram):
            check_lm(self.lm, tokenizer)
        begin = self.lm.start() if self.lm is not None and state is None else state
        root = -1 if self.space is None else self.space  # a text begins as if after a delimiter
        self.nodes = [Prefix(-1, root, 0.0, 0.0, begin, "")]
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
        plain = not (self.chars or self.lexicon or self.hot)
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
            return replace(self.word_after(before, part), parent=node, token=token)
        if token == self.space:
            ended = self.end_word(before)
            return ended and replace(ended, parent=node, token=token)
        places = before.places
        if self.lexicon is not None:
            places = self.lexicon.after(places, part)
            if not places:
                return None
        word, score, lm, state, boost = before.word + part, before.score, before.lm, before.state, 0.0
        if self.chars:
            text = DELIMITER + part if before.token == self.space and before.parent >= 0 else part
            state, more = self.spelled(state, text)
            lm, score = lm + more, score + self.search.lm_weight * more + self.search.word_score * len(text)
        if self.hot:
            text = f"{before.said} {word}" if before.said else word
            boost = self.hot.begun(text)
            if self.hot.ended(text):
                score += self.hot.found(text)
        return Prefix(node, token, score, lm, state, word, places, before.said, boost)

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
        if self.lexicon is not None and not self.lexicon.ends(before.places):
            return None
        return self.word_after(before, before.word)

    def word_after(self, before: Prefix, word: str) -> Prefix:
        """A prefix with a whole word more."""
        state, score, lm = before.state, before.score, before.lm
        if self.lm is not None and not self.chars:
            state, more = self.lm.score(state, word)
            lm, score = lm + more, score + self.search.lm_weight * more + self.search.word_score
        if not self.hot:
            return Prefix(-1, -1, score, lm, state, "")
        text = f"{before.said} {word}" if before.said else word
        if not self.hot.ended(text) or self.tokenizer.writing.phones:
            score += self.hot.found(text)
        said = " ".join(text.split(" ")[-self.hot.memory :]) if self.hot.memory else ""
        return Prefix(-1, -1, score, lm, state, "", said=said, boost=self.hot.begun(f"{said} ") if said else 0.0)

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


@lru_cache(maxsize=4)
def check_lm(lm: Ngram, tokenizer: CharTokenizer) -> None:
    """InputError for a language model whose words a vocabulary prints otherwise, such as in capitals; 1000 are looked at."""
    words = [word for word in lm.words if word not in (BEGIN, END, UNKNOWN, DELIMITER)]
    words = words[:: 1 + len(words) // 1000]
    if words and all(spelled(word, tokenizer) != word for word in words):
        raise InputError(
            f"no word of the language model is spelled as this model prints it: {lacking(words[0], tokenizer)}"
        )
