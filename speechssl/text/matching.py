"""What two long sequences of symbols have in common, where either may have parts that the other lacks: what was heard in a
recording, with its errors, and the text that was read.

Stretches of symbols that occur once in each are the landmarks (as in patience diff); between them the best alignment is computed,
in which a part of any length may be left out at a fixed price. Time and memory grow with the length of the two.
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

LANDMARKS = (48, 24, 12, 8)  # symbols: longer ones are surer, shorter ones survive more errors
CELLS = 4_000_000  # of the matrix of two parts that are compared symbol by symbol
EQUAL, WRONG, LEAP = 2, -3, -24  # scores of an equal symbol, of an error, and of leaving out any number of symbols


def matched(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Places (i, j) with a[i] == b[j], ascending in both, in the best alignment."""
    return within(np.asarray(a, np.int32), np.asarray(b, np.int32), LANDMARKS)


def within(a: np.ndarray, b: np.ndarray, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The same of two parts; sizes: of the landmarks to try."""
    if not len(a) or not len(b):
        return []
    if len(a) * len(b) <= CELLS:
        return compared(a, b)
    if not sizes:
        return []
    size, found, ends = sizes[0], list[tuple[int, int]](), (0, 0)
    for i, j in [*landmarks(a, b, size), (len(a), len(b))]:
        if i < ends[0] or j < ends[1]:
            continue  # overlaps the one before
        inner = within(a[ends[0] : i], b[ends[1] : j], sizes[1:])
        found += [(ends[0] + x, ends[1] + y) for x, y in inner]
        ends = i, j
        if i < len(a):
            found += [(i + step, j + step) for step in range(size)]
            ends = i + size, j + size
    return found


def landmarks(a: np.ndarray, b: np.ndarray, size: int) -> list[tuple[int, int]]:
    """The longest series, ascending in both, of places of stretches of `size` symbols that occur once in a and once in b."""
    places = once(a, size)
    pairs = sorted((places[key], j) for key, j in once(b, size).items() if key in places)
    tops: list[int] = []  # the least place in b that a series of each length ends at
    series: list[tuple[int, int]] = []  # (number of the pair that ends such a series, that before it)
    at_top: list[int] = []
    for number, (_, j) in enumerate(pairs):
        length = bisect_left(tops, j)
        series.append((number, at_top[length - 1] if length else -1))
        tops[length : length + 1], at_top[length : length + 1] = [j], [number]
    chosen, number = [], at_top[-1] if at_top else -1
    while number >= 0:
        chosen.append(pairs[number])
        number = series[number][1]
    return chosen[::-1]


def once(symbols: np.ndarray, size: int) -> dict[bytes, int]:
    """Where the stretches of `size` symbols are that occur once."""
    data, width, seen = symbols.tobytes(), symbols.itemsize, dict[bytes, int]()
    for place in range(len(symbols) - size + 1):
        key = data[place * width : (place + size) * width]
        seen[key] = -1 if key in seen else place
    return {key: place for key, place in seen.items() if place >= 0}


def compared(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """The same of two short parts, by the scores at the top."""
    best = np.empty((len(a) + 1, len(b) + 1), np.int32)
    steps = np.arange(len(b) + 1) * -WRONG
    leapt = np.full(len(b) + 1, np.iinfo(np.int32).min // 2)  # after any number of symbols of a were left out
    best[0] = np.maximum(-steps, np.where(steps > 0, LEAP, 0))
    for i, symbol in enumerate(a, 1):
        leapt = np.maximum(leapt, best[i - 1] + LEAP)
        row = np.maximum(best[i - 1] + WRONG, leapt)
        row[1:] = np.maximum(row[1:], best[i - 1, :-1] + np.where(b == symbol, EQUAL, WRONG))
        row = np.maximum.accumulate(row + steps) - steps
        row[1:] = np.maximum(row[1:], np.maximum.accumulate(row)[:-1] + LEAP)
        best[i] = row
    found, i, j = [], len(a), len(b)
    while i and j:
        score = best[i, j]
        if a[i - 1] == b[j - 1] and score == best[i - 1, j - 1] + EQUAL:
            i, j = i - 1, j - 1
            found.append((i, j))
        elif score == best[i - 1, j - 1] + WRONG:
            i, j = i - 1, j - 1
        elif score == best[i - 1, j] + WRONG:
            i -= 1
        elif score == best[i, j - 1] + WRONG:
            j -= 1
        elif len(before := np.flatnonzero(best[:i, j] + LEAP == score)):
            i = int(before[-1])
        else:
            j = int(np.flatnonzero(best[i, :j] + LEAP == score)[-1])
    return found[::-1]
