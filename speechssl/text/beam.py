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
from speechssl.text.lexicon import ROOT, Lexicon, fit_hot, fit_lexicon, lacking, spelled
from speechssl.text.ngram import BEGIN, END, UNKNOWN, LanguageModel, Ngram
from speechssl.text.search import Hypothesis, Search
from speechssl.text.tokenizer import DELIMITER, CharTokenizer

LEAST = -12.0  # log-probabilities of symbols below this are not tried in a frame
HOPELESS = 25.0  # nats behind the best text
SURE = math.log(0.9999)  # a blank as likely as this leaves all prefixes as they are
NEVER, FINITE = -np.inf, np.finfo(float).min


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

    @property
    def text(self) -> str:
        """What hot words are looked for in."""
        return f"{self.said} {self.word}" if self.said else self.word


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
        self.plain = not (self.chars or tokenizer.writing.phones)  # letters cost nothing before a word ends
        self.direct = (
            self.plain and self.lexicon is not None and not self.lexicon.joining and max(map(len, self.parts)) == 1
        )
        self.ahead = [0.0] * len(self.lexicon.next) if self.lexicon else []
        if self.direct and self.lexicon and self.lm:
            self.ahead = look_ahead(self.lexicon, self.lm, search.lm_weight, search.word_score)
        self.ends = [] if self.space is None else [self.space]
        self.letters = {
            part[:1]: [i for i, other in enumerate(self.parts) if other[:1] == part[:1]] for part in self.parts
        }
        boosts = sum(max(0.0, boost) for boost in self.hot.boosts.values())
        self.most = (
            boosts + 2 * max(0.0, search.word_score) if search.lm_weight >= 0 else np.inf
        )  # a symbol adds no more
        self.blank_B, self.last_B = np.zeros(1), np.full(1, NEVER)
        self.ids_B = self.token_B = self.parent_B = np.zeros(0, np.int64)
        self.value_B, self.worth_BV = np.zeros(0), np.zeros((0, len(tokenizer)))
        self.row_N, self.place_V = (
            np.full(2, -1),
            np.full(len(tokenizer), -1),
        )  # places in the beam, among the symbols tried
        self.keep(np.zeros(0, np.int64), [0])
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
        total_B = np.logaddexp(self.blank_B, self.last_B)
        spaced_B = self.token_B == self.space
        stay_blank_B = total_B + frame_V[self.blank]
        stay_last_B = np.where(spaced_B, total_B, self.last_B) + frame_V[self.token_B]

        tried_C = np.flatnonzero(self.usable_V & (frame_V > LEAST))
        again_BC = self.token_B[:, None] == tried_C
        grown_BC = np.where(again_BC, self.blank_B[:, None], total_B[:, None]) + frame_V[tried_C]
        grown_BC[again_BC & spaced_B[:, None]] = NEVER
        self.row_N[self.ids_B], self.place_V[tried_C] = np.arange(len(self.ids_B)), np.arange(len(tried_C))
        above_B, place_B = self.row_N[self.parent_B], self.place_V[self.token_B]
        self.row_N[self.ids_B], self.place_V[tried_C] = -1, -1
        known = np.flatnonzero((above_B >= 0) & (place_B >= 0))  # reached from their beginnings, which are in the beam
        reached = above_B[known], place_B[known]
        stay_last_B[known] = np.logaddexp(stay_last_B[known], grown_BC[reached])
        grown_BC[reached] = NEVER

        stays_B = np.logaddexp(stay_blank_B, stay_last_B) + self.value_B
        ranked_BC = grown_BC + self.value_B[:, None]
        close_BC = ranked_BC > max(stays_B.max(), ranked_BC.max(initial=NEVER)) - HOPELESS - self.most
        ranked_BC = np.where(close_BC, grown_BC + self.worths(tried_C, close_BC), NEVER)
        ranked = np.concatenate([stays_B, ranked_BC.ravel()])
        keep = min(self.search.beam, int((ranked >= max(ranked.max() - HOPELESS, FINITE)).sum()))
        if keep:
            best = np.argpartition(-ranked, keep - 1)[:keep]
            stay, new = best[best < len(stays_B)], best[best >= len(stays_B)] - len(stays_B)
            rows, symbols = new // len(tried_C), tried_C[new % len(tried_C)]
            grown = [
                self.child(node, token) for node, token in zip(self.ids_B[rows].tolist(), symbols.tolist(), strict=True)
            ]
            self.blank_B = np.concatenate([stay_blank_B[stay], np.full(len(new), NEVER)])
            self.last_B = np.concatenate([stay_last_B[stay], grown_BC.ravel()[new]])
            self.keep(stay, grown)

    def keep(self, stay: np.ndarray, grown: list[int]) -> None:
        """The rows of the beam that stay, and the nodes that are new in it."""
        nodes = [self.nodes[number] for number in grown]
        value_G = np.array([node.score + node.boost for node in nodes])
        worth_GV = np.full((len(nodes), self.worth_BV.shape[1]), np.nan)
        for worth_V, node in zip(worth_GV, nodes, strict=True):
            self.foresee(worth_V, node)
        if len(self.nodes) >= len(self.row_N):  # its last value is that of no node
            self.row_N = np.full(4 * len(self.nodes), -1)
        self.ids_B = np.concatenate([self.ids_B[stay], np.array(grown, np.int64)])
        self.token_B = np.concatenate([self.token_B[stay], np.array([node.token for node in nodes], np.int64)])
        self.parent_B = np.concatenate([self.parent_B[stay], np.array([node.parent for node in nodes], np.int64)])
        self.value_B = np.concatenate([self.value_B[stay], value_G])
        self.worth_BV = np.concatenate([self.worth_BV[stay], worth_GV])

    def foresee(self, worth_V: np.ndarray, node: Prefix) -> None:
        """Fill in what a prefix grown by a letter is worth, where that is known without growing it."""
        if self.plain:
            worth_V[:] = node.score
        if self.lexicon is not None:
            worth_V[:] = NEVER
            for place in node.places:
                for letter, after in self.lexicon.next[place].items():
                    worth_V[self.letters.get(letter, [])] = node.score + self.ahead[after] if self.direct else np.nan
        worth_V[self.ends] = np.nan
        for letter in self.hot.following(node.text) if self.hot and self.plain else ():
            asked = self.letters.get(letter, [])
            worth_V[asked] = np.where(worth_V[asked] == NEVER, NEVER, np.nan)

    def worths(self, tried_C: np.ndarray, wanted_BC: np.ndarray) -> np.ndarray:
        """What model, lexicon and hot words make of the prefixes of the beam grown by each symbol, where wanted: (B, C)."""
        found_BC = self.worth_BV[:, tried_C]
        rows, places = np.nonzero(wanted_BC & np.isnan(found_BC))
        if len(rows):
            pairs = zip(self.ids_B[rows].tolist(), tried_C[places].tolist(), strict=True)
            found_BC[rows, places] = self.worth_BV[rows, tried_C[places]] = [self.worth(*pair) for pair in pairs]
        return found_BC

    def worth(self, node: int, token: int) -> float:
        """The score of a prefix grown by a symbol."""
        if self.plain and not self.lexicon and not self.hot and token != self.space:
            return self.nodes[node].score
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
            return self.word_after(before, part, node, token)
        if token == self.space:
            return self.end_word(before, node, token)
        places = before.places
        if self.lexicon is not None:
            places = self.lexicon.after(places, part)
            if not places:
                return None
        ahead = self.ahead[next(iter(places))] if self.direct else 0.0
        word, score, lm, state, boost = before.word + part, before.score, before.lm, before.state, ahead
        if self.chars:
            text = DELIMITER + part if before.token == self.space and before.parent >= 0 else part
            state, more = self.spelled(state, text)
            lm, score = lm + more, score + self.search.lm_weight * more + self.search.word_score * len(text)
        if self.hot:
            text = before.text + part
            boost += self.hot.begun(text)
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

    def end_word(self, before: Prefix, node: int = -1, token: int = -1) -> Prefix | None:
        """A prefix, of number `node`, after a word delimiter; None if the lexicon has no such word. A model of characters is
        asked about a delimiter when a letter follows."""
        if not before.word:
            return replace(before, parent=node, token=token)
        if self.lexicon is not None and not self.lexicon.ends(before.places):
            return None
        return self.word_after(before, before.word, node, token)

    def word_after(self, before: Prefix, word: str, node: int, token: int) -> Prefix:
        """A prefix with a whole word more."""
        state, score, lm = before.state, before.score, before.lm
        if self.lm is not None and not self.chars:
            state, more = self.lm.score(state, word)
            lm, score = lm + more, score + self.search.lm_weight * more + self.search.word_score
        if not self.hot:
            return Prefix(node, token, score, lm, state, "")
        text = f"{before.said} {word}" if before.said else word
        if not self.hot.ended(text) or self.tokenizer.writing.phones:
            score += self.hot.found(text)
        said = " ".join(text.split(" ")[-self.hot.memory :]) if self.hot.memory else ""
        boost = self.hot.begun(f"{said} ") if said else 0.0
        return Prefix(node, token, score, lm, state, "", ROOT, said, boost)

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
def look_ahead(lexicon: Lexicon, lm: LanguageModel, lm_weight: float, word_score: float) -> list[float]:
    """Of each place in a lexicon, what the best word there gets at the beginning of a sentence, so that a word that is only begun
    is compared with whole ones."""
    begin = lm.start()
    return lexicon.best_ahead(lambda word: lm_weight * lm.score(begin, word)[1] + word_score)


@lru_cache(maxsize=4)
def check_lm(lm: Ngram, tokenizer: CharTokenizer) -> None:
    """InputError for a language model whose words a vocabulary prints otherwise, such as in capitals; 1000 are looked at."""
    words = [word for word in lm.words if word not in (BEGIN, END, UNKNOWN, DELIMITER)]
    words = words[:: 1 + len(words) // 1000]
    if words and all(spelled(word, tokenizer) != word for word in words):
        raise InputError(
            f"no word of the language model is spelled as this model prints it: {lacking(words[0], tokenizer)}"
        )
