"""flashlight-text's beam search (Kahn et al. 2022; extra `lm`) in place of our own: the same scores, found by C++.

With a lexicon its LexiconDecoder walks a tree of spellings, in which a word that is only begun has already the best score of the
words that begin so; without one its LexiconFreeDecoder asks about every symbol. The prefixes of `Beam` answer what it asks, so
language models, weights, word scores and hot words are the same.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.text.beam import HOPELESS, LEAST, NEVER, Beam
from speechssl.text.lexicon import Lexicon
from speechssl.text.ngram import LanguageModel
from speechssl.text.tokenizer import DELIMITER, CharTokenizer

LOST = -1e5  # a log-probability that single precision holds, for what cannot be


def library() -> Any:
    """flashlight's decoders. InputError if they are not installed."""
    try:
        import flashlight.lib.text.decoder as library
    except ImportError:
        raise InputError(
            "the decoder flashlight needs its package: pip install flashlight-text (the extra `lm`; for Python 3.11 and 3.12); "
            "the decoder beam needs nothing"
        ) from None
    return library


class Flashlight(Beam):
    """A search over the frames of a recording, which `feed` gets all at once."""

    def feed(self, log_probs_TV: np.ndarray) -> None:
        """Search all frames. InputError for a lexicon whose words do not end with a space."""
        lib, lexicon = library(), self.lexicon
        usable_V = self.usable_V | (np.arange(len(self.usable_V)) == self.blank)
        frames_TV = np.where(usable_V, np.maximum(log_probs_TV, LOST), LOST).astype(np.float32)
        frames_TV = frames_TV[(frames_TV > LOST).any(axis=1)]
        how = {"beam_size": self.search.beam, "beam_threshold": HOPELESS, "lm_weight": 1.0, "sil_score": 0.0}
        how |= {"log_add": True, "criterion_type": lib.CriterionType.CTC}
        space = self.blank if self.space is None else self.space
        if lexicon is None:
            how["beam_size_token"] = max(1, int((frames_TV > LEAST).sum(axis=1).max(initial=0)))
            asked = answers(lib, self, self.symbol)
            decoder = lib.LexiconFreeDecoder(lib.LexiconFreeDecoderOptions(**how), asked, space, self.blank, [])
        elif lexicon.joining:
            raise InputError(
                "words of flashlight's lexicon end with a space, which is not written here; use the decoder beam"
            )
        else:
            boosts = tuple(self.hot.boosts.items())
            spelled, trie = tree(lexicon, self.tokenizer, self.lm, self.search.lm_weight, boosts)
            asked = answers(lib, self, lambda node, word: spelled[word])
            how |= {"beam_size_token": frames_TV.shape[1], "word_score": 0.0, "unk_score": NEVER}
            options = lib.LexiconDecoderOptions(**how)
            decoder = lib.LexiconDecoder(options, trie, asked, space, self.blank, -1, [], False)
            end_1V = np.full((1, frames_TV.shape[1]), LOST, np.float32)
            end_1V[0, space] = 0.0  # a delimiter for the last word to end with
            frames_TV = np.concatenate([frames_TV, end_1V])
        scores: dict[int, float] = {}
        frames_TV = np.ascontiguousarray(frames_TV)
        for found in decoder.decode(frames_TV.ctypes.data, *frames_TV.shape):
            path = [token for token, _ in groupby(found.tokens[1:-1]) if token != self.blank]
            node = 0
            for label in path if lexicon is None else [word for word in found.words if word >= 0]:
                node = asked.after(node, label)
            acoustic = found.score - self.value(node)
            if acoustic > LOST:
                scores[node] = float(np.logaddexp(acoustic, scores.get(node, NEVER)))
        self.ids_B = np.array(list(scores), np.int64)
        self.blank_B, self.last_B = np.array(list(scores.values())), np.full(len(scores), NEVER)

    def symbol(self, node: int, token: int) -> Sequence[int]:
        """What a symbol adds to a prefix: delimiters count once."""
        return [] if token == self.nodes[node].token == self.space else [token]

    def value(self, node: int) -> float:
        """The score of a prefix, without its posteriors."""
        return self.nodes[node].score + self.nodes[node].boost


def answers(lib: Any, beam: Flashlight, tokens_of: Callable[[int, int], Sequence[int]]) -> Any:
    """A language model for flashlight: prefixes are its states, `tokens_of` (prefix, label) the symbols that a label adds."""

    class Answers(lib.LM):
        def __init__(self) -> None:
            super().__init__()
            self.nodes: dict[Any, int | tuple[int, int]] = {}  # (prefix, label): not yet one of the tree
            self.known: dict[tuple[int, int], tuple[Any, float]] = {}

        def after(self, node: int, label: int) -> int:
            for token in tokens_of(node, label):
                node = beam.child(node, token)
            return node

        def start(self, nothing: bool) -> Any:
            state = lib.LMState()
            self.nodes[state] = 0
            return state

        def score(self, state: Any, label: int) -> tuple[Any, float]:
            node = self.nodes[state]
            if isinstance(node, tuple):
                node = self.nodes[state] = self.after(*node)
            if (node, label) not in self.known:
                tokens = tokens_of(node, label)
                if len(tokens) == 1:
                    child, worth = state.child(label), beam.worth(node, tokens[0])
                    self.nodes[child] = node, label
                else:
                    after = self.after(node, label)
                    child, worth = state.child(label) if tokens else state, beam.value(after)
                    self.nodes[child] = after
                self.known[node, label] = child, worth - beam.value(node)
            return self.known[node, label]

        def finish(self, state: Any) -> tuple[Any, float]:
            return state, 0.0  # `best` ends the sentence

    return Answers()


@lru_cache(maxsize=1)
def tree(
    lexicon: Lexicon,
    tokenizer: CharTokenizer,
    lm: LanguageModel | None,
    lm_weight: float,
    boosts: tuple[tuple[str, float], ...],
) -> tuple[list[list[int]], Any]:
    """(the symbols of each word and a delimiter, flashlight's tree of these)."""
    lib, hot = library(), dict(boosts)
    spelled = [[*tokenizer.encode(word), tokenizer.vocab[DELIMITER]] for word in lexicon.words]
    trie = lib.Trie(len(tokenizer), tokenizer.vocab[DELIMITER])
    for number, (word, tokens) in enumerate(zip(lexicon.words, spelled, strict=True)):
        ahead = 0.0 if lm is None or lm.units == "chars" else lm_weight * lm.score(lm.start(), word)[1]
        trie.insert(tokens, number, ahead + hot.get(word, 0.0))
    trie.smear(lib.SmearingMode.MAX)
    return spelled, trie
