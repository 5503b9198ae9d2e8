"""Word borders against those of real digits that are joined with the noise of real rooms."""

import numpy as np
import pytest

from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.sound.levels import excess, levels
from speechssl.text.borders import widened
from speechssl.text.transcript import Word
from tests.conftest import DATA, ROOT


@pytest.fixture(scope="module")
def borders():
    """recipes/borders/borders.py, which joins words so that their borders are known."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("borders", ROOT / "recipes" / "borders" / "borders.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(borders):
    """Every fifth digit of the test speaker, and a room's noise."""
    noise_S = borders.quietest(audio.load(read_manifest(DATA / "librispeech_test.tsv")[0].path))
    return borders.trimmed_words(DATA / "fsdd.tsv", ["theo"])[::5], noise_S


def spikes(truth: list[tuple[float, float]], random: np.random.Generator) -> list[Word]:
    """Words as CTC marks them: late, and shorter than they are."""
    found = []
    for start, end in truth:
        first, last = np.sort(random.uniform(0.25, 0.75, size=2))
        found.append(
            Word(text="x", start=start + first * (end - start), end=start + last * (end - start) + 0.02, score=1.0)
        )
    return found


def joined(borders, digits, pauses, decibels=(25, 35)):
    """excess_F, seconds, true words and those of CTC."""
    random = np.random.default_rng(1)
    wave_S, _, truth = borders.joined(digits[0], digits[1], pauses, decibels, random)
    return excess(levels(wave_S)), len(wave_S) / 16_000, np.array(truth), spikes(truth, random)


@pytest.mark.parametrize("pauses", [(0.15, 0.6), (2.0, 5.0)])
def test_borders_beside_pauses_are_heard(borders, digits, pauses):
    excess_F, seconds, truth, words = joined(borders, digits, pauses)
    found = np.array([(word.start, word.end) for word in widened(words, excess_F, seconds)])
    error = np.abs(found - truth)
    assert np.median(error) <= 0.03 and (error <= 0.08).mean() >= 0.9


def test_words_without_pauses_share_a_border_and_never_overlap(borders, digits):
    excess_F, seconds, truth, words = joined(borders, digits, (0.0, 0.0))
    found = widened(words, excess_F, seconds)
    edges = np.array([(word.start, word.end) for word in found])
    assert (edges[:, 1] > edges[:, 0]).all() and (edges[1:, 0] >= edges[:-1, 1]).all()
    assert edges.min() >= 0 and edges.max() <= seconds
    assert np.median(np.abs(edges - truth)) <= 0.06
    raw = np.array([(word.start, word.end) for word in words])
    assert np.abs(edges - truth).mean() < 0.7 * np.abs(raw - truth).mean()
    even = widened(words, np.full(len(excess_F), 40.0), seconds)  # nothing but speech
    for (_, before), (after, _), left, right in zip(raw, raw[1:], even, even[1:], strict=False):
        assert left.end == right.start == pytest.approx((before + after) / 2, abs=0.011)


def test_what_is_not_heard_keeps_its_place():
    """Silence, a word without letters, no audio at all."""
    words = [Word(text=t, start=a, end=b, score=1.0) for t, a, b in (("a", 0.5, 0.6), ("-", 0.6, 0.6), ("b", 0.8, 0.9))]
    found = widened(words, np.zeros(200), 2.0)
    assert [(word.start, word.end) for word in found] == [(0.5, 0.6), (0.8, 0.8), (0.8, 0.9)]
    assert widened(words, np.zeros(0), 2.0) == words and widened([], np.zeros(5), 1.0) == []
    level_F = np.zeros(200)
    level_F[40:70] = level_F[75:95] = 30.0  # a gap of 50 ms is no pause
    first, sign, last = widened(words, level_F, 2.0)
    assert (first.start, last.end) == (0.4, 0.95) and first.end == last.start == sign.start == sign.end == 0.7
