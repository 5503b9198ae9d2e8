"""`speechssl build-lm`: an n-gram model with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999; Heafield et al.
2013), written as an ARPA file.

Every order is an array: the n-gram that ends at each token of the text is a number, found from the number of its beginning and
its last word. So counting is sorting, and a million words take seconds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_file, replacing
from speechssl.text.ngram import BEGIN, END, NEVER, UNKNOWN

FALLBACK = (0.5, 1.0, 1.5)  # discounts where a text is too small to tell them, as in KenLM
SPECIAL = (UNKNOWN, BEGIN, END)
SPACE = "|"  # between words, in a model of characters


@dataclass(frozen=True, kw_only=True)
class Built:
    """What `build_lm` wrote. counts: n-grams of each order."""

    out: Path
    sentences: int
    tokens: int
    units: str
    counts: list[int]

    def __str__(self) -> str:
        orders = ", ".join(f"{count:,} {n}-grams" for n, count in enumerate(self.counts, 1))
        return (
            f"{self.out}: {self.sentences:,} sentences, {self.tokens:,} {self.units}: {orders}\n"
            f"  choose its weight on transcribed audio: `speechssl tune-lm MODEL {self.out} dev.tsv`"
        )


def build(lines: Iterable[str], out: Path, *, order: int = 4, units: str = "words") -> Built:
    """Estimate a model of some lines, a sentence each, and write it into `out`.

    units: words, or chars for languages without spaces. InputError for lines without a word.
    """
    if not 1 <= order <= 10:
        raise InputError(f"--order {order} is outside 1 ... 10; 3 or 4 words, or 6 to 10 characters, are usual")
    out = output_file(Path(out), "lm.arpa")
    sentences = [found for line in lines if (found := split(line, units))]
    if not sentences:
        raise InputError("the texts hold no words, or none that the normaliser keeps; give others")
    words, orders = estimate(sentences, order)
    write_arpa(out, words, orders)
    return Built(
        out=out,
        sentences=len(sentences),
        tokens=sum(map(len, sentences)),
        units=units,
        counts=[len(log10_n) for _, log10_n, _ in orders],
    )


def split(text: str, units: str) -> list[str]:
    """A line as units; of characters, the space is one between words."""
    words = [word for word in text.split() if word not in SPECIAL]
    return words if units == "words" else list(SPACE.join(words))


def estimate(
    sentences: Sequence[Sequence[str]], order: int
) -> tuple[list[str], list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """(words, for each order the arrays of Ngram): probabilities and back-off weights by modified Kneser-Ney."""
    words = [*SPECIAL, *sorted({word for sentence in sentences for word in sentence})]
    ids = {word: index for index, word in enumerate(words)}
    stream = [token for s in sentences for token in (ids[BEGIN], *(ids[word] for word in s), ids[END])]
    tokens_T, size = np.array(stream, np.int64), len(words)
    place_T = np.arange(len(tokens_T)) - np.maximum.accumulate(
        np.where(tokens_T == ids[BEGIN], np.arange(len(tokens_T)), 0)
    )  # in its sentence
    grams = list(grams_of(tokens_T, place_T, size, order))
    orders, lower = [], np.full(size, 1 / (size - 1))  # the uniform distribution, over all but <s>
    for n, gram in enumerate(grams, 1):
        counts_G = adjusted(gram, grams[n] if n < len(grams) else None, ids[BEGIN])
        if n == 1:
            counts_G[ids[BEGIN]] = 0
        d0_d1_d2_d3 = discounts(counts_G)
        mass_P = np.bincount(gram.parent_G, counts_G, minlength=gram.parents)
        kinds_G = np.minimum(counts_G, 3).astype(np.int64)
        left_P = np.bincount(gram.parent_G, d0_d1_d2_d3[kinds_G], minlength=gram.parents)
        gamma_P = np.divide(left_P, mass_P, out=np.zeros(gram.parents), where=mass_P > 0)
        share_G = np.divide(
            counts_G - d0_d1_d2_d3[kinds_G], mass_P[gram.parent_G], where=counts_G > 0, out=np.zeros(len(counts_G))
        )
        p_G = share_G + gamma_P[gram.parent_G] * (lower if n == 1 else lower[gram.suffix_G])
        if n == 1:
            p_G[ids[BEGIN]] = 10.0**NEVER
        else:
            orders[-1][2][:] = log10_of(gamma_P)
        orders.append((gram.ids_GN, np.log10(p_G), np.zeros(len(p_G))))
        lower = p_G
    return words, orders


def log10_of(gamma_P: np.ndarray) -> np.ndarray:
    """Logarithms of back-off weights; 0 for a context that is followed by nothing."""
    return np.log10(np.where(gamma_P > 0, gamma_P, 1.0))


@dataclass(frozen=True, kw_only=True)
class Grams:
    """The different n-grams of one order. ids_GN: their words. parent_G: the number of the beginning of each, one word shorter,
    of `parents`. suffix_G: that of its end. raw_G: how often it stands in the text."""

    ids_GN: np.ndarray
    parent_G: np.ndarray
    parents: int
    suffix_G: np.ndarray
    raw_G: np.ndarray


def grams_of(tokens_T: np.ndarray, place_T: np.ndarray, size: int, order: int) -> Iterator[Grams]:
    """The n-grams of each order within sentences. place_T: of a token in its sentence. Those of one word are all words."""
    numbers_T, count = tokens_T, size
    ids_GN = np.arange(size)[:, None]
    yield Grams(
        ids_GN=ids_GN,
        parent_G=np.zeros(size, np.int64),
        parents=1,
        suffix_G=np.zeros(size, np.int64),
        raw_G=np.bincount(tokens_T, minlength=size),
    )
    for n in range(2, order + 1):
        ends = np.flatnonzero(place_T >= n - 1)
        if not len(ends):
            return
        keys, firsts, inverse, raw_G = np.unique(
            numbers_T[ends - 1] * size + tokens_T[ends], return_index=True, return_inverse=True, return_counts=True
        )
        parent_G = keys // size
        ids_GN = np.column_stack([ids_GN[parent_G], keys % size])
        yield Grams(ids_GN=ids_GN, parent_G=parent_G, parents=count, suffix_G=numbers_T[ends[firsts]], raw_G=raw_G)
        numbers_T, count = np.full(len(tokens_T), -1), len(keys)
        numbers_T[ends] = inverse


def adjusted(gram: Grams, longer: Grams | None, begin: int) -> np.ndarray:
    """Kneser-Ney's counts: after how many different words an n-gram stands; how often it is in the text where it is of the
    highest order, or begins a sentence, before which there is nothing."""
    if longer is None:
        return gram.raw_G.astype(float)
    counts_G = np.bincount(longer.suffix_G, minlength=len(gram.raw_G)).astype(float)
    return np.where(gram.ids_GN[:, 0] == begin, gram.raw_G, counts_G)


def discounts(counts_G: np.ndarray) -> np.ndarray:
    """What is taken from counts of 0, 1, 2 and more (Chen and Goodman's equation 26); FALLBACK where they make no sense."""
    n1, n2, n3, n4 = (float((counts_G == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= d <= k for k, d in enumerate(found, 1)):
            return np.array([0.0, *found])
    return np.array([0.0, *FALLBACK])


def write_arpa(path: Path, words: list[str], orders: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Write a model, see Ngram, in ARPA's format."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={len(order[1])}\n" for n, order in enumerate(orders, 1)))
        for n, (ids_NK, log10_n, backoff_n) in enumerate(orders, 1):
            file.write(f"\n\\{n}-grams:\n")
            file.writelines(lines_of(words, ids_NK, log10_n, backoff_n, last=n == len(orders)))
        file.write("\n\\end\\\n")


def lines_of(
    words: list[str], ids_NK: np.ndarray, log10_n: np.ndarray, backoff_n: np.ndarray, last: bool
) -> Iterable[str]:
    """The lines of one order; the highest has no back-off."""
    for ids, p, backoff in zip(ids_NK.tolist(), log10_n.tolist(), backoff_n.tolist(), strict=True):
        text = " ".join(words[i] for i in ids)
        yield f"{max(p, NEVER):.7g}\t{text}\n" if last else f"{max(p, NEVER):.7g}\t{text}\t{backoff:.7g}\n"
