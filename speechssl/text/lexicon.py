"""What else than a language model decides which words are found: a lexicon, and hot words."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.text.scripts import BASE, MARKS
from speechssl.text.tokenizer import CharTokenizer

TIGHT = re.compile(f"[{BASE}{MARKS}]")  # letters beside which no space is written
ROOT, NOWHERE = frozenset([0]), frozenset[int]()


class Lexicon:
    """The only words that a search may find, as a tree of letters; place 0 is its root.

    Where no space is written between two words, one follows the other: tight: anywhere, else after letters of scripts without
    spaces. So what was spelled stands at several places at once.
    """

    def __init__(self, words: Iterable[str], tight: bool = False) -> None:
        """InputError without a word."""
        self.words = sorted({word for word in words if word})
        if not self.words:
            raise InputError("the lexicon holds no words; give a file with a word in each line")
        self.next: list[dict[str, int]] = [
            {}
        ]  # of each place, the letters that may follow and the places that they lead to
        self.whole: dict[int, str] = {}  # place -> the word that ends there
        self.joining: set[int] = set()
        for word in self.words:
            place = 0
            for letter in word:
                if letter not in self.next[place]:
                    self.next[place][letter] = len(self.next)
                    self.next.append({})
                place = self.next[place][letter]
            self.whole[place] = word
            if tight or TIGHT.match(word[-1]):
                self.joining.add(place)

    def after(self, places: frozenset[int], text: str) -> frozenset[int]:
        """The places some letters further; none if no word goes on so."""
        if len(text) == len(places) == 1:  # mostly
            found = self.next[next(iter(places))].get(text)
            return NOWHERE if found is None else frozenset((0, found) if found in self.joining else (found,))
        for letter in text:
            places = frozenset(self.next[place][letter] for place in places if letter in self.next[place])
            if places & self.joining:
                places |= ROOT
        return places

    def ends(self, places: frozenset[int]) -> bool:
        """Whether a word ends at a place."""
        return not self.whole.keys().isdisjoint(places)

    def best_ahead(self, worth: Callable[[str], float]) -> list[float]:
        """Of each place, the worth of the best word that goes on or ends there."""
        found = [worth(self.whole[place]) if place in self.whole else -math.inf for place in range(len(self.next))]
        for place in range(len(found) - 1, -1, -1):  # what follows has the higher number
            found[place] = max(found[place], *(found[after] for after in self.next[place].values()), -math.inf)
        return found


def read_lexicon(path: Path) -> Lexicon:
    """The words at the beginning of each line of a file; what follows, such as their spelling, is left out."""
    return Lexicon(line.split()[0] for line in read_lines(path) if line.split())


@dataclass(frozen=True, kw_only=True)
class HotWords:
    """Words and phrases that a search shall prefer: each time that one is found its boost, a natural log-probability, is added.

    One that is only begun has the share of it that is spelled, so that it is not lost from the beam before it is whole. It begins
    and ends with a word, but where no space is written: tight: anywhere, else beside letters of scripts without spaces.
    """

    boosts: Mapping[str, float] = field(default_factory=dict)
    tight: bool = False

    def __bool__(self) -> bool:
        return bool(self.boosts)

    @cached_property
    def longest(self) -> int:
        """Letters of the longest one."""
        return max(map(len, self.boosts), default=0)

    @cached_property
    def memory(self) -> int:
        """How many words before the last one a phrase may begin."""
        return max((hot.count(" ") for hot in self.boosts), default=0)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Of each beginning of one; the greatest, if several begin so."""
        found: dict[str, float] = {}
        for hot, boost in self.boosts.items():
            for count in range(1, len(hot) + (not self.ended(hot))):
                share = boost * count / len(hot)
                found[hot[:count]] = max(share, found.get(hot[:count], share))
        return found

    @cached_property
    def letters(self) -> dict[str, set[str]]:
        """The letters that go on from each beginning of one."""
        found: dict[str, set[str]] = {}
        for hot in self.boosts:
            for count, letter in enumerate(hot):
                found.setdefault(hot[:count], set()).add(letter)
        return found

    @cached_property
    def anywhere(self) -> bool:
        """Whether one may begin within a word."""
        return self.tight or any(map(TIGHT.search, self.boosts))

    def following(self, text: str) -> set[str]:
        """The letters that begin one, or go on with it, after a text; no others have a share of a boost."""
        begin = self.anywhere or not text or text[-1] == " " or bool(TIGHT.match(text[-1]))
        tails = ["", *self.tails(text)] if begin else self.tails(text)
        return set().union(*(self.letters[tail] for tail in tails if tail in self.letters))

    def ended(self, text: str) -> bool:
        """Whether a word ends with a text, whatever follows it."""
        return self.tight or bool(TIGHT.match(text[-1:]))

    def tails(self, text: str) -> list[str]:
        """The ends of a text with which one may have begun."""
        if not self.tight and not TIGHT.search(text):
            words = text.split(" ")
            return [" ".join(words[i:]) for i in range(len(words))]
        starts = range(max(0, len(text) - self.longest), len(text))
        return [
            text[i:] for i in starts if i == 0 or self.tight or text[i - 1] == " " or TIGHT.search(text[i - 1 : i + 1])
        ]

    def found(self, text: str) -> float:
        """What those get with which a text ends."""
        return sum(self.boosts.get(tail, 0.0) for tail in self.tails(text))

    def begun(self, text: str) -> float:
        """What the beginning of one at the end of a text gets, until it is whole or turns out to be another."""
        return max((self.shares[tail] for tail in self.tails(text) if tail in self.shares), default=0.0)


def parse_hot(words: Iterable[str], boost: float = 5.0) -> HotWords:
    """["anna", "new york=8"] -> HotWords. InputError for a boost that is no number."""
    boosts = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            boosts[" ".join(name.split())] = float(value or boost)
        except ValueError:
            raise InputError(f"--hot-words {word}: a boost is a number, as in {name}={boost:g}") from None
    return HotWords(boosts={name: value for name, value in boosts.items() if name})


def spelled(text: str, tokenizer: CharTokenizer) -> str:
    """Words as a model with this vocabulary prints them: its capitals or small letters, its composed letters or marks; "" if it
    cannot."""
    words = unicodedata.normalize("NFC", text).split()
    if tokenizer.lacking(words):
        return ""
    space = "" if tokenizer.delimiter is None and not tokenizer.writing.phones else " "
    return space.join(tokenizer.decode(tokenizer.encode(word)) for word in words)


@lru_cache(maxsize=4)
def fit_lexicon(lexicon: Lexicon, tokenizer: CharTokenizer) -> Lexicon:
    """A lexicon as a vocabulary spells it; what it cannot is left out, with a note. InputError if that is every word, and for a
    vocabulary of phones."""
    if tokenizer.writing.phones:
        raise InputError("this vocabulary writes phones, and a lexicon holds words; decode without one")
    found = {word: spelled(word, tokenizer) for word in lexicon.words}
    lost = [word for word, own in found.items() if not own]
    if len(lost) == len(found):
        raise InputError(f"the vocabulary can write no word of the lexicon: {lacking(lost[0], tokenizer)}")
    if lost:
        why = lacking(lost[0], tokenizer)
        from speechssl.core import progress  # which imports torch

        progress.write(
            f"lexicon: {len(lost)} of {len(found)} words, which the vocabulary cannot write, are left out: {why}"
        )
    return Lexicon(found.values(), tight=tokenizer.delimiter is None)


@lru_cache(maxsize=4)
def fit_hot(boosts: tuple[tuple[str, float], ...], tokenizer: CharTokenizer) -> HotWords:
    """Hot words as a vocabulary spells them. InputError for one that it cannot."""
    for word, _ in boosts:
        if not spelled(word, tokenizer):
            raise InputError(f"the vocabulary cannot write a hot word: {lacking(word, tokenizer)}")
    tight = tokenizer.delimiter is None and not tokenizer.writing.phones
    return HotWords(boosts={spelled(word, tokenizer): boost for word, boost in boosts}, tight=tight)


def lacking(word: str, tokenizer: CharTokenizer) -> str:
    """Why a word cannot be written, and what to do."""
    lost = " ".join(sorted(tokenizer.lacking(word.split())))
    has = " ".join(filter(None, map(tokenizer.symbol, range(len(tokenizer)))))
    why = f"{word!r} has {lost}" if lost else f"{word!r} is {spelled(word, tokenizer)!r} there"
    return f"{why}, and its letters are {has[:60]}; spell words as in the transcripts of the training"
