"""What a CTC decoder is asked for, and what it answers; without torch, so that help is light."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from speechssl.core.errors import InputError
from speechssl.text.lexicon import HotWords, Lexicon
from speechssl.text.ngram import LanguageModel

if TYPE_CHECKING:
    from torch import Tensor

DECODERS = {
    "greedy": "speechssl.text.decoders:Greedy",
    "beam": "speechssl.text.beam:Beam",
    "flashlight": "speechssl.text.flashlight:Flashlight",
}  # subclasses of Beam


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A text. score: what the search maximises, acoustic + the weighted rest. acoustic, lm: natural log-probabilities.
    tokens: its symbols. path_T: the symbol or blank of each frame, of the best text."""

    text: str
    score: float
    acoustic: float
    lm: float
    tokens: tuple[int, ...] = ()
    path_T: "Tensor | None" = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to decode: score = acoustic + lm_weight * lm + word_score * words, in nats (natural logarithms).

    decoder: a row of DECODERS. beam: prefixes that are kept. lm_weight: factor on the language model.
    word_score: is added for every word (character of a model of these), against the model's preference for few; without a model
    neither counts. lexicon: the only words there are. hot: words that are made likelier. n_best: how many texts a transcript
    holds.
    """

    decoder: str = "beam"
    beam: int = 100
    lm: LanguageModel | None = None
    lm_weight: float = 0.5
    word_score: float = 1.0
    lexicon: Lexicon | None = None
    hot: HotWords = field(default_factory=HotWords)
    n_best: int = 1

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise InputError(f"there is no decoder {self.decoder!r}; the decoders: {', '.join(DECODERS)}")
        if self.decoder == "greedy" and (self.lm or self.lexicon or self.hot or self.n_best > 1):
            raise InputError(
                "greedy decoding uses no language model, lexicon or hot words, and finds one text; choose the decoder beam"
            )
        if self.beam < 1:
            raise InputError(f"--beam {self.beam} must be at least 1; 100 is usual")
        if not 1 <= self.n_best <= self.beam:
            raise InputError(f"--n-best {self.n_best} is outside 1 ... {self.beam}, the texts that the search keeps")

    def __str__(self) -> str:
        parts = [f"{'' if self.decoder == 'beam' else f'{self.decoder}, '}beam of {self.beam}"]
        if self.lm is not None:
            parts.append(f"{self.lm}, weight {self.lm_weight:g}, word score {self.word_score:g}")
        if self.lexicon is not None:
            parts.append(f"lexicon of {len(self.lexicon.words)} words")
        if self.hot:
            parts.append("hot words " + ", ".join(f"{word}={boost:g}" for word, boost in self.hot.boosts.items()))
        return "; ".join(parts)
