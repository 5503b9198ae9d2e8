"""Levels of bands against their formula, and what does not change them."""

import numpy as np
import pytest

from speechssl.sound.levels import EDGES, excess, levels


def test_levels_are_the_mean_power_of_each_band(speech):
    wave_S = speech[:16_000]
    found_FB = levels(wave_S)
    assert found_FB.shape == (100, len(EDGES) - 1)
    window_S = wave_S[50 * 160 - 80 : 50 * 160 + 240] * np.hanning(320)
    hertz = np.arange(161) * 50
    power = [
        abs(sum(window_S * np.exp(-2j * np.pi * h / 50 * np.arange(320) / 320))) ** 2 / 320
        for h in hertz
        if 1800 <= h < 2600
    ]
    assert found_FB[50, EDGES.index(1800)] == pytest.approx(np.mean(power), rel=1e-3)


def test_a_recording_may_be_louder_and_steps_come_in_pieces(speech):
    wave_S = speech[: 30 * 16_000]
    whole_F = excess(levels(wave_S))
    assert np.allclose(excess(levels(4 * wave_S)), whole_F, atol=0.01)
    assert np.allclose(levels(wave_S[16_000:])[2:], levels(wave_S)[102:], rtol=1e-3, atol=1e-9)
    assert excess(levels(wave_S[:100])).shape == (0,)
    assert np.isfinite(excess(levels(np.zeros(16_000, np.float32)))).all()


def test_a_weak_hiss_is_heard_over_a_loud_hum(speech):
    """A third of a second of it, 20 dB below the hum of the mains."""
    seconds = np.arange(5 * 16_000) / 16_000
    hum_S = 0.1 * np.sin(2 * np.pi * 150 * seconds)
    noise_S = np.diff(speech[: len(hum_S) + 1])[::-1].copy()
    hiss_S = np.random.default_rng(1).normal(size=len(hum_S)) * 1e-4
    hiss_S[32_000:37_000] += 0.05 * noise_S[:5000] / noise_S[:5000].std() * 0.14
    level_F = excess(levels((hum_S + hiss_S).astype(np.float32)))
    assert np.median(level_F[201:230]) > 8 > np.percentile(np.concatenate([level_F[5:195], level_F[235:495]]), 95)
