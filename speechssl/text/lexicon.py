"""What else than a language model decides which words are found: a lexicon, and hot words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines


class Lexicon:
    """The only words that a search may find, as a tree of letters; place 0 is its root."""

    def __init__(self, words: Iterable[str]) -> None:
        """InputError without a word."""
        self.words = sorted({word for word in words if word})
        if not self.words:
            raise InputError("the lexicon holds no words; give a file with a word in each line")
        self.places: dict[tuple[int, str], int] = {}
        self.whole: set[int] = set()
        for word in self.words:
            place = 0
            for letter in word:
                place = self.places.setdefault((place, letter), len(self.places) + 1)
            self.whole.add(place)

    def after(self, place: int, text: str) -> int:
        """The place some letters further; -1 if no word goes on so."""
        for letter in text:
            place = self.places.get((place, letter), -1)
        return place

    def ends(self, place: int) -> bool:
        """Whether a word ends at a place."""
        return place in self.whole


def read_lexicon(path: Path) -> Lexicon:
    """The words at the beginning of each line of a file; what follows, such as their spelling, is left out."""
    return Lexicon(line.split()[0] for line in read_lines(path) if line.split())


@dataclass(frozen=True, kw_only=True)
class HotWords:
    """Words that a search shall prefer: word -> natural log-probability that it gets in addition.

    A word that is only begun has the share of it that is spelled, so that it is not lost from the beam before it is whole.
    """

    boosts: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.boosts)

    def whole(self, word: str) -> float:
        """What a whole word gets."""
        return self.boosts.get(word, 0.0)

    def partly(self, word: str) -> float:
        """What the beginning of a word gets, until the word is whole or turns out to be another."""
        shares = (boost * len(word) / len(hot) for hot, boost in self.boosts.items() if hot.startswith(word))
        return max(shares, default=0.0)


def parse_hot(words: Iterable[str], boost: float = 5.0) -> HotWords:
    """["anna", "ouagadougou=8"] -> HotWords. InputError for a boost that is no number."""
    boosts = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            boosts |= dict.fromkeys(name.split(), float(value or boost))
        except ValueError:
            raise InputError(f"--hot-words {word}: a boost is a number, as in {name}={boost:g}") from None
    return HotWords(boosts=boosts)
