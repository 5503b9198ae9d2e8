"""Windows tile a clip: together they keep each frame once, whatever the length and the rate."""

import numpy as np
import pytest
import soundfile
import soxr

from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.sound import audio
from speechssl.sound.windows import windows
from tests.conftest import CLIP

GEOMETRY = Wav2Vec2Config().geometry


def kept(pieces) -> list[np.ndarray]:
    """What every kept frame sees, in order."""
    hop, field = GEOMETRY.hop, GEOMETRY.receptive_field
    return [
        wave_S[t * hop : t * hop + field]
        for wave_S, rows in pieces
        for t in range(*rows.indices(GEOMETRY.frames(len(wave_S))))
    ]


@pytest.mark.parametrize("samples", [400, 719, 720, 15_999, 16_000, 16_079, 16_080, 32_000, 48_399, 48_400, 100_001])
@pytest.mark.parametrize("window, context", [(1.0, 0.2), (0.5, 0.0), (1.003, 0.1), (100.0, 2.0)])
def test_every_frame_of_the_whole_is_kept_once(samples, window, context, speech):
    wave = speech[:samples]
    found = kept(windows(wave, GEOMETRY, window=window, context=context))
    whole = kept([(wave, slice(None))])
    assert len(found) == len(whole)
    assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))


@pytest.mark.parametrize("samples", [300, 15_999, 16_000, 48_400])
@pytest.mark.parametrize("window, context", [(1.0, 0.2), (0.5, 0.0), (0.1, 0.0), (100.0, 2.0)])
def test_silence_is_joined_to_the_ends_of_the_clip(samples, window, context, speech, tmp_path):
    wave = speech[:samples]
    soundfile.write(tmp_path / "x.wav", wave, 16_000, subtype="FLOAT")
    expected = list(windows(np.pad(wave, 4000), GEOMETRY, window=window, context=context))
    for source in (wave, tmp_path / "x.wav"):
        found = list(windows(source, GEOMETRY, window=window, context=context, silence=0.25))
        assert [piece.rows for piece in found] == [piece.rows for piece in expected]
        assert all(np.array_equal(a.wave_S, b.wave_S) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
def test_windows_of_a_file_are_those_of_its_samples(rate, speech, tmp_path):
    wave = speech[: 16_000 * 5 + 123]
    soundfile.write(tmp_path / "x.wav", soxr.resample(wave, 16_000, rate), rate, subtype="FLOAT")
    for start, duration in ((0.0, None), (0.5, None), (0.5, 3.0)):
        whole = audio.load(tmp_path / "x.wav", start=start, duration=duration)
        expected = kept([(whole, slice(None))])
        found = kept(windows(tmp_path / "x.wav", GEOMETRY, start=start, duration=duration, window=1.0, context=0.2))
        assert abs(len(found) - len(expected)) <= (rate != 16_000)
        for a, b in list(zip(found, expected, strict=False))[:-2]:
            np.testing.assert_allclose(a, b, atol=0 if rate == 16_000 else 1e-4)


def test_a_short_clip_is_one_window():
    (only,) = windows(CLIP, GEOMETRY)
    np.testing.assert_array_equal(only.wave_S, audio.load(CLIP))
