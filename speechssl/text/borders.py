"""Where words begin and end. CTC marks a letter late and for a frame or two; the sound says how far its word reaches.

A word reaches to the pauses beside it. Where none is heard between two words, their border is midway between the letters.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from speechssl.text.transcript import Word

STEPS = 100  # of the levels, in a second
QUIET = 11.0  # decibels above the background, up to which nothing is heard
BELOW = 30.0  # decibels below the loudest of a word, at which it has ended where there is no background
PAUSE = 8  # steps: a shorter one is within a word, as before the burst of a stop
REACH = 50  # steps that a word goes on at most after its last letter, or begins before its first


def widened(words: Sequence[Word], excess_F: np.ndarray, duration: float) -> list[Word]:
    """Words from the first to the last of their letters, with the borders that are heard within `duration` seconds; they do not
    overlap.

    excess_F: decibels above the background in each step (speechssl.sound.levels). A word without letters has no length and stands
    where the next one begins. QUIET, BELOW and PAUSE were chosen on the speakers of recipes/borders who are
    no test.
    """
    excess_F = excess_F[: int(duration * STEPS)]
    spoken = [place for place, word in enumerate(words) if word.end > word.start]
    if not len(excess_F) or not spoken:
        return list(words)
    firsts = [min(len(excess_F) - 1, round(words[place].start * STEPS)) for place in spoken]
    stops = [max(a + 1, round(words[place].end * STEPS)) for a, place in zip(firsts, spoken, strict=True)]
    peaks = [a + int(excess_F[a:b].argmax()) for a, b in zip(firsts, stops, strict=True)]
    starts = [before_first(excess_F[: peaks[0] + 1], firsts[0], 0.0)]
    ends: list[float] = []
    for (left, right), (stop, first) in zip(pairwise(peaks), zip(stops, firsts[1:], strict=False), strict=True):
        middle = (stop + first) / 2
        end = left + after_last(excess_F[left:right], stop - left, middle - left)
        start = left + before_first(excess_F[left : right + 1], first - left, middle - left)
        ends.append(end if end <= start else (end + start) / 2)
        starts.append(start if end <= start else (end + start) / 2)
    rest_F = excess_F[peaks[-1] :]
    ends.append(peaks[-1] + after_last(rest_F, stops[-1] - peaks[-1], len(rest_F)))
    found = list(words)
    for place, start, end in zip(spoken, starts, ends, strict=True):
        found[place] = replace(words[place], start=round(start / STEPS, 3), end=round(end / STEPS, 3))
    return settled(found)


def after_last(excess_F: np.ndarray, stop: float, otherwise: float) -> float:
    """Where a word ends that is loudest in the first of some steps, and whose letters end at `stop`."""
    quiet_F = excess_F < max(QUIET, excess_F[0] - BELOW)
    if quiet_F[0]:
        return stop  # the word is not heard at all
    found = pauses(quiet_F)
    return min(found[0][0] if found else otherwise, stop + REACH)


def before_first(excess_F: np.ndarray, first: float, otherwise: float) -> float:
    """Where a word begins that is loudest in the last of some steps, and whose letters begin at `first`."""
    size = len(excess_F)
    return size - after_last(excess_F[::-1], size - first, size - otherwise)


def settled(words: list[Word]) -> list[Word]:
    """Words without length moved to where the next one begins, or the last one ends."""
    place = max((word.end for word in words), default=0.0)
    for i, word in reversed(list(enumerate(words))):
        if word.end > word.start:
            place = word.start
        else:
            words[i] = replace(word, start=place, end=place)
    return words


def pauses(quiet_F: np.ndarray) -> list[tuple[int, int]]:
    """(first, stop) of the stretches of at least PAUSE steps that are quiet."""
    edges = np.diff(np.concatenate([[0], quiet_F.astype(np.int8), [0]]))
    ends = zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True)
    return [(first, stop) for first, stop in ends if stop - first >= PAUSE]
