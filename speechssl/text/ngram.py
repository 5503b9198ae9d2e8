"""n-gram language models: our own reader of ARPA files, and KenLM's binary ones through its package (extra `lm`).

An ARPA file becomes a tree in sorted arrays, 24 bytes an n-gram: the children of a node are the words that may follow
it, and each node knows its longest proper suffix that is in the tree, to which a model backs off.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.lines import first_bytes, read_lines

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LN10 = math.log(10)
KENLM = b"mmap lm http://kheafield.com/code"  # how its binary files begin
CELLS = re.compile(r"[^ \t\r]+")  # not by str.split: words may hold other spaces
NEVER = -99.0  # log10 of the probability of what is not said, as SRILM writes it


class LanguageModel(Protocol):
    """What decoding needs. A state stands for the words so far, as far as the model looks back; it can be a key of a dict."""

    units: str
    """words, or chars if the words of the model are single characters."""

    def start(self) -> Any:
        """The state at the beginning of a sentence."""
        ...

    def score(self, state: Any, word: str) -> tuple[Any, float]:
        """(the state after `word`, its natural log-probability there); </s> ends a sentence."""
        ...

    def knows(self, word: str) -> bool:
        """Whether a word is in the vocabulary."""
        ...


class Ngram:
    """A back-off model. Node 0 is the empty context, nodes 1 ... V are the words.

    keys_N: parent * V + word of every n-gram, sorted. places_N: its node. log10_N, backoff_N, suffix_N: by node; of a node that
    is no context the back-off is 0. full: the first node of the highest order, whose nodes are no contexts.
    """

    def __init__(self, words: list[str], orders: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """orders: of each order (ids of its words (n, order), log10 (n,), back-off (n,)), in the order of the ids for unigrams.
        InputError for an n-gram whose beginning is no n-gram."""
        self.words = {word: index for index, word in enumerate(words)}
        size = len(words)
        self.order, self.size = len(orders), size
        lengths = [len(log10_n) for _, log10_n, _ in orders]
        self.full = 1 + sum(lengths[:-1]) if self.order > 1 else 1
        self.log10_N = np.concatenate([[0.0], *(log10_n for _, log10_n, _ in orders)], dtype=np.float32)
        self.backoff_N = np.concatenate([[0.0], *(backoff_n for _, _, backoff_n in orders)], dtype=np.float32)
        self.keys_N = np.arange(size, dtype=np.int64)
        self.places_N = np.arange(1, size + 1, dtype=np.int32)
        self.suffix_N = np.zeros(1 + sum(lengths), np.int32)
        first = 1 + size
        for ids_NK, log10_n, _ in orders[1:]:
            parents = self.walk(ids_NK[:, :-1])
            if (parents < 0).any():
                lost = " ".join(words[i] for i in ids_NK[int(np.argmax(parents < 0))])
                raise InputError(f"the n-gram {lost!r} stands without its beginning; write the model again")
            keys = parents.astype(np.int64) * size + ids_NK[:, -1]
            nodes = np.arange(first, first + len(log10_n), dtype=np.int32)
            order = np.argsort(keys, kind="stable")  # all of them are greater than those of a lower order
            self.keys_N = np.concatenate([self.keys_N, keys[order]])
            self.places_N = np.concatenate([self.places_N, nodes[order]])
            self.suffix_N[nodes] = self.after(self.suffix_N[parents], ids_NK[:, -1])
            first += len(log10_n)
        self.known: dict[tuple[int, str], tuple[int, float]] = {}
        said = [word for word in words if word not in (BEGIN, END, UNKNOWN)]
        self.units = "chars" if said and max(map(len, said)) == 1 else "words"

    def __str__(self) -> str:
        return f"{self.order}-gram model of {self.size - 3:,} {self.units}, {len(self.log10_N) - 1:,} n-grams"

    def find(self, parents: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The nodes of these children, -1 where there is none."""
        keys = parents.astype(np.int64) * self.size + words
        places = np.minimum(np.searchsorted(self.keys_N, keys), len(self.keys_N) - 1)
        return np.where(self.keys_N[places] == keys, self.places_N[places], -1)

    def walk(self, ids_NK: np.ndarray) -> np.ndarray:
        """The nodes of whole n-grams, -1 where one is not there."""
        nodes = np.zeros(len(ids_NK), np.int32)
        for column in ids_NK.T:
            nodes = np.where(nodes >= 0, self.find(np.maximum(nodes, 0), column), -1)
        return nodes

    def after(self, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The longest suffix of context and word that is in the tree."""
        nodes = self.find(contexts, words)
        while (lost := np.flatnonzero((nodes < 0) & (contexts > 0))).size:
            contexts = contexts.copy()
            contexts[lost] = self.suffix_N[contexts[lost]]
            nodes[lost] = self.find(contexts[lost], words[lost])
        return np.maximum(nodes, 0)

    def start(self) -> int:
        """The state at the beginning of a sentence."""
        return 1 + self.words[BEGIN] if BEGIN in self.words else 0

    def knows(self, word: str) -> bool:
        """Whether a word is in the vocabulary."""
        return word in self.words

    def score(self, state: int, word: str) -> tuple[int, float]:
        """(the state after `word`, its natural log-probability there)."""
        found = self.known.get((state, word))
        if found is None:
            found = self.known[state, word] = self.lookup(state, self.words.get(word, self.words.get(UNKNOWN, -1)))
        return found

    def lookup(self, state: int, word: int) -> tuple[int, float]:
        """`score` of a word by its number, -1 for an unknown word in a model without one for these."""
        if word < 0:
            return 0, NEVER * LN10
        total = 0.0
        while True:
            key = state * self.size + word
            place = int(np.searchsorted(self.keys_N, key))
            if place < len(self.keys_N) and self.keys_N[place] == key:
                node = int(self.places_N[place])
                after = int(self.suffix_N[node]) if node >= self.full and self.order > 1 else node
                return (0 if self.order == 1 else after), (total + float(self.log10_N[node])) * LN10
            total += float(self.backoff_N[state])
            state = int(self.suffix_N[state])


class KenLM:
    """A model of KenLM's package, in either of its formats."""

    def __init__(self, path: Path) -> None:
        """InputError if the package is not installed, or cannot read the file."""
        try:
            import kenlm
        except ImportError:
            raise InputError(
                f"{path} is a binary model of KenLM, which needs its package: pip install kenlm (the extra `lm`); ARPA files "
                "are read without it"
            ) from None
        try:
            self.model, self.State = kenlm.Model(str(path)), kenlm.State
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path} cannot be read by KenLM ({' '.join(str(error).split())})") from None
        self.units = "words"

    def __str__(self) -> str:
        return f"{self.model.order}-gram model of KenLM"

    def start(self) -> Any:
        """The state at the beginning of a sentence."""
        state = self.State()
        self.model.BeginSentenceWrite(state)
        return state

    def knows(self, word: str) -> bool:
        """Whether a word is in the vocabulary."""
        return word in self.model

    def score(self, state: Any, word: str) -> tuple[Any, float]:
        """(the state after `word`, its natural log-probability there)."""
        after = self.State()
        return after, self.model.BaseScore(state, word, after) * LN10


def open_lm(path: Path) -> LanguageModel:
    """The language model in a file, by its content. InputError if it is none."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; make a language model: `speechssl build-lm text.txt --out lm.arpa`")
    return KenLM(path) if first_bytes(path, len(KENLM)) == KENLM else read_arpa(path)


def read_arpa(path: Path) -> Ngram:
    """Read an ARPA file, plain or compressed by gzip. InputError with the line if it is not whole."""
    counts: dict[int, int] = {}
    words: list[str] = []
    ids: dict[str, int] = {}
    orders: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    lines = enumerate(read_lines(path), 1)
    for _, line in lines:
        if line.strip() == "\\data\\":
            break
    else:
        raise InputError(f"{path} is no ARPA file: no line says \\data\\; make one with `speechssl build-lm`")
    for number, line in lines:
        text = line.strip()
        if text.startswith("ngram "):
            order, _, count = text.removeprefix("ngram ").partition("=")
            try:
                counts[int(order)] = int(count)
            except ValueError:
                raise InputError(
                    f"{path} line {number}: {text!r} is not as in 'ngram 2=1234'; copy the file again"
                ) from None
        elif text.endswith("-grams:"):
            order = len(orders) + 1
            if text != f"\\{order}-grams:" or order not in counts:
                raise InputError(f"{path} line {number}: {text} is not expected here; write the model again")
            orders.append(read_order(path, lines, order, counts[order], words, ids))
        elif text == "\\end\\":
            break
    if not orders or len(orders) < len(counts):
        raise InputError(f"{path} ends before its {len(orders) + 1}-grams; copy it again")
    return Ngram(words, orders)


def read_order(
    path: Path, lines: Iterable[tuple[int, str]], order: int, count: int, words: list[str], ids: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The n-grams of one order, see Ngram; those of one word fill `words` and `ids`."""
    numbers = np.zeros((count, order), np.int32)
    log10, backoff = np.zeros(count, np.float32), np.zeros(count, np.float32)
    row = 0
    for number, line in lines:
        cells = CELLS.findall(line)
        if not cells:
            continue
        try:
            if order == 1:
                word = UNKNOWN if cells[1] == "<UNK>" else cells[1]  # as KenLM reads it
                ids[cells[1]] = len(words)
                words.append(word)
            numbers[row] = [ids[word] for word in cells[1 : 1 + order]]
            log10[row] = float(cells[0])
            backoff[row] = float(cells[1 + order]) if len(cells) > 1 + order else 0.0
            if not (log10[row] <= 0.01 and backoff[row] < np.inf):
                raise ValueError
        except (ValueError, LookupError):
            raise InputError(
                f"{path} line {number}: {line[:80]!r} is none of the {count} {order}-grams; copy the file again"
            ) from None
        row += 1
        if row == count:
            break
    if row < count:
        raise InputError(f"{path} ends after {row} of {count} {order}-grams; copy it again")
    return numbers, log10, backoff


def perplexity(model: LanguageModel, sentences: Iterable[Sequence[str]]) -> float:
    """Perplexity per word of some sentences, their ends counted, unknown words included."""
    total, count = 0.0, 0
    for sentence in sentences:
        state = model.start()
        for word in (*sentence, END):
            state, score = model.score(state, word)
            total, count = total + score, count + 1
    return math.exp(-total / max(1, count))
