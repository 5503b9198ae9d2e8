"""ECE against its formula; confidences follow the words through normalisation."""

import numpy as np
import pytest

from speechssl.score.calibration import calibration_of, confidences
from speechssl.score.edits import score
from speechssl.text.normalise import Normaliser, basic
from speechssl.text.transcript import Word


def heard(*words: tuple[str, float]) -> list[Word]:
    """Recognised words with their confidence."""
    return [Word(text=text, start=0.0, end=0.0, score=confidence) for text, confidence in words]


def test_ece_is_the_formula_of_guo_et_al():
    rng = np.random.default_rng(3)
    confidence = rng.beta(4, 1, 500)
    right = rng.random(500) < confidence**2
    found = calibration_of(list(zip(confidence.tolist(), right.tolist(), strict=True)))
    expected = 0.0
    for low in range(10):
        inside = (confidence >= low / 10) & (confidence < (low + 1) / 10)
        if inside.any():
            expected += inside.sum() / 500 * abs(right[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(expected)
    assert sum(one.count for one in found.bins) == found.count == 500
    assert sum(one.count * one.accuracy for one in found.bins) == pytest.approx(right.sum())
    assert (found.confidence, found.accuracy) == (pytest.approx(confidence.mean()), pytest.approx(right.mean()))
    assert "badly calibrated, on average" in str(found) and "too high" in str(found)


def test_by_hand():
    found = calibration_of([(0.95, True), (0.95, False), (1.0, True), (0.15, False)])
    assert found.ece == pytest.approx(3 / 4 * abs(2.9 / 3 - 2 / 3) + 1 / 4 * 0.15)
    assert [(one.low, one.count) for one in found.bins] == [(0.1, 1), (0.9, 3)]


def test_chance_is_what_calibrated_systems_show():
    """Of 100 calibrated systems about 5 lie above it."""
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 100)
    above = []
    for _ in range(100):
        right = rng.random(100) < confidence
        found = calibration_of(list(zip(confidence.tolist(), right.tolist(), strict=True)))
        above.append(found.ece > found.chance)
    assert 1 <= sum(above) <= 12


def test_confidences_follow_the_words():
    """one is right, tow is wrong, two was missed, and the last was inserted."""
    one = score("x", "", "one two two", "one tow four")
    assert confidences(one, heard(("One,", 0.9), ("tow", 0.5), ("four", 0.4)), basic) == [
        (0.9, True), (0.5, False), (0.4, False),
    ]  # fmt: skip
    assert confidences(score("x", "", "one two", "two"), heard(("two", 0.7)), basic) == [(pytest.approx(0.7), True)]


def test_words_that_the_normaliser_changes():
    """A pause parts a word that is written as one; numbers that only the whole text shows leave the utterance out."""
    joined = score("x", "", "seven", "seven")
    assert confidences(joined, heard(("se", 1.0), ("ven", 0.5)), basic) == [(pytest.approx(0.7), True)]
    parted = score("x", "", "a b", "a b")
    assert confidences(parted, heard(("a-b", 0.5)), basic) == [(0.5, True), (0.5, True)]
    whisper = Normaliser(name="whisper-english")
    assert whisper("twenty one") == "21"
    assert confidences(score("x", "", "21", "21"), heard(("twenty", 0.5), ("one", 0.5)), whisper) is None


def test_letters_of_scripts_without_spaces_have_their_own():
    one = score("x", "", "我爱北京", "我爱东京")
    found = confidences(one, heard(("我", 0.9), ("爱", 0.8), ("东", 0.3), ("京", 0.7)), basic)
    assert found == [(0.9, True), (0.8, True), (0.3, False), (0.7, True)]
