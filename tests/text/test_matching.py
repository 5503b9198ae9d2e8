"""Matching against the best of all alignments, and a book against what a poor recogniser hears of it."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from speechssl.text import matching
from speechssl.text.matching import EQUAL, LEAP, WRONG, compared, matched
from tests.conftest import ROOT


def best_score(a: list[int], b: list[int]) -> int:
    """The score of the best alignment, of which each is looked at."""

    @cache
    def score(i: int, j: int) -> int:
        if i == len(a) and j == len(b):
            return 0
        found = [score(k, j) + max(LEAP, WRONG * (k - i)) for k in range(i + 1, len(a) + 1)]
        found += [score(i, k) + max(LEAP, WRONG * (k - j)) for k in range(j + 1, len(b) + 1)]
        if i < len(a) and j < len(b):
            found.append(score(i + 1, j + 1) + (EQUAL if a[i] == b[j] else WRONG))
        return max(found)

    return score(0, 0)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_found_has_the_best_score(seed, monkeypatch):
    monkeypatch.setattr(matching, "LEAP", -9)
    monkeypatch.setitem(globals(), "LEAP", -9)
    random = np.random.default_rng(seed)
    a = random.integers(0, 4, size=int(random.integers(1, 22))).tolist()
    b = [*a[: len(a) // 2], *random.integers(0, 4, size=int(random.integers(1, 15))).tolist(), *a[len(a) // 2 + 3 :]]
    pairs = compared(np.array(a), np.array(b))
    assert all(a[i] == b[j] for i, j in pairs)
    edges = [(-1, -1), *pairs, (len(a), len(b))]
    total = EQUAL * len(pairs)
    for (i, j), (k, m) in pairwise(edges):
        total += best_score([1] * (k - i - 1), [2] * (m - j - 1))  # nothing between them is equal
    assert total == best_score(a, b)


def test_a_long_text_with_parts_that_are_not_read_and_speech_that_is_not_in_it():
    """A quarter of the letters is misheard; 900 letters are skipped, 700 others are put in."""
    text = [ord(letter) for letter in (ROOT / "tests/text/genesis.txt").read_text().lower() if letter.isalpha()]
    random = np.random.default_rng(3)
    read = [*range(1500), *range(2400, len(text))]
    heard, truth = [], []
    for number, place in enumerate(read):
        if number == 3000:
            heard += random.permutation(text)[:700].tolist()
            truth += [-1] * 700
        kind = random.random()
        if kind < 0.1:
            continue
        wrong = kind < 0.2
        heard.append(int(random.choice(text)) if wrong else text[place])
        truth.append(-1 if wrong else place)
        if kind > 0.95:
            heard.append(int(random.choice(text)))
            truth.append(-1)
    found = matched(heard, text)
    assert all(heard[i] == text[j] for i, j in found)
    assert found == sorted(found) and len({j for _, j in found}) == len(found) == len({i for i, _ in found})
    right = sum(truth[i] == j for i, j in found)
    assert right > 0.95 * sum(place >= 0 for place in truth) and right > 0.95 * len(found)
    assert sum(1510 <= j < 2390 for _, j in found) < 10  # what is not read
    first = next(i for i, place in enumerate(truth) if place >= read[3000])
    assert sum(first - 690 <= i < first - 10 for i, _ in found) < 10  # what is not in the text


def test_landmarks_save_the_long_way(monkeypatch):
    """The same pairs where the matrix would be too large."""
    text = [ord(letter) for letter in (ROOT / "tests/text/genesis.txt").read_text().lower() if letter.isalpha()]
    heard = [*text[:800], *text[1100:2500]]
    whole = matched(heard, text[:2500])
    monkeypatch.setattr(matching, "CELLS", 10_000)
    assert matched(heard, text[:2500]) == whole
