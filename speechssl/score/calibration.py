"""Whether the confidence of a word or class is the probability that it is right: reliability, and the expected error of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from speechssl.score.edits import Scored
from speechssl.text.transcript import Word

BINS = 10
BAD = 0.05  # an ECE above this is reported as bad
DRAWS = 200


@dataclass(frozen=True, kw_only=True)
class Bin:
    """What has a confidence from `low` to `high`: how many, their mean confidence, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of the recognised words (deleted ones have no confidence), or of clips: what is `counted`. ece: expected calibration error
    (Guo et al. 2017), the mean of |confidence - accuracy| of their bin. chance: what 95 % of perfectly calibrated systems with
    these confidences would stay below. left_out: words of utterances in which they could not be matched with those that are
    scored."""

    counted: str
    count: int
    left_out: int
    confidence: float
    accuracy: float
    ece: float
    chance: float
    bins: list[Bin]

    def __str__(self) -> str:
        gap = 100 * (self.confidence - self.accuracy)
        off = f"on average {abs(gap):.1f} points too {'high' if gap > 0 else 'low'}"
        if abs(gap) < 50 * self.ece:
            off = "in some ranges too high and in others too low"
        verdict = (
            f"badly calibrated, {off}: do not read them as probabilities"
            if self.ece > max(BAD, self.chance)
            else f"a little off, {off}"
            if self.ece > self.chance
            else "calibrated, as far as so many words can tell"
        )
        left = f"; {self.left_out} words that the normaliser joined or split are left out" if self.left_out else ""
        size = f"ECE {100 * self.ece:.1f} % over {self.count} {self.counted}; up to {100 * self.chance:.1f} % is chance"
        return f"confidences of {self.counted} are {verdict} ({size}){left}"


def confidences(one: Scored, words: Sequence[Word], normal: Callable[[str], str]) -> list[tuple[float, bool]] | None:
    """(confidence, whether it is right) of every recognised word of an utterance. None if normalising it as a whole gives other
    letters than normalising its words one by one, as where numbers are spelled."""
    letters = [(letter, word.score) for word in words for letter in normal(word.text) if not letter.isspace()]
    heard = [step for step in one.words if step.kind != "D"]
    if "".join(letter for letter, _ in letters) != "".join(step.hypothesis for step in heard):
        return None
    found, place = [], 0
    for step in heard:  # a word may consist of several recognised ones, such as those around a pause
        stop = place + len(step.hypothesis)
        found.append((sum(score for _, score in letters[place:stop]) / (stop - place), step.kind == "C"))
        place = stop
    return found


def calibration_of(
    pairs: Sequence[tuple[float, bool]], left_out: int = 0, seed: int = 1, counted: str = "words"
) -> Calibration:
    """The calibration of words, or what else is `counted`, with (confidence, whether it is right)."""
    confidence_N, right_N = np.array([c for c, _ in pairs], float), np.array([r for _, r in pairs], float)
    bin_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    count_B, sure_B = (np.bincount(bin_N, weights=w, minlength=BINS) for w in (np.ones(len(pairs)), confidence_N))

    def ece(outcome_N: np.ndarray) -> float:
        right_B = np.bincount(bin_N, weights=outcome_N, minlength=BINS)
        return float(np.abs(right_B - sure_B).sum() / len(pairs))

    rng = np.random.default_rng(seed)
    drawn = [ece(rng.random(len(pairs)) < confidence_N) for _ in range(DRAWS)]
    right_B = np.bincount(bin_N, weights=right_N, minlength=BINS)
    return Calibration(
        counted=counted,
        count=len(pairs),
        left_out=left_out,
        confidence=float(confidence_N.mean()),
        accuracy=float(right_N.mean()),
        ece=ece(right_N),
        chance=float(np.percentile(drawn, 95)),
        bins=[
            Bin(
                low=b / BINS,
                high=(b + 1) / BINS,
                count=int(count_B[b]),
                confidence=float(sure_B[b] / count_B[b]),
                accuracy=float(right_B[b] / count_B[b]),
            )
            for b in range(BINS)
            if count_B[b]
        ],
    )
