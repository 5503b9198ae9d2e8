"""Windows tile a clip: together they keep each frame once, whatever the length and the rate."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr

from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.sound import audio
from speechssl.sound.windows import Window, parts, quietest, steady, windows
from tests.conftest import CLIP, DATA, digits, with_pauses

GEOMETRY = Wav2Vec2Config().geometry


def kept(pieces) -> list[np.ndarray]:
    """What every kept frame sees, in order."""
    hop, field = GEOMETRY.hop, GEOMETRY.receptive_field
    return [
        wave_S[t * hop : t * hop + field]
        for wave_S, rows, *_ in pieces
        for t in range(*rows.indices(GEOMETRY.frames(len(wave_S))))
    ]


@pytest.mark.parametrize("samples", [400, 719, 720, 15_999, 16_000, 16_079, 16_080, 32_000, 48_399, 48_400, 100_001])
@pytest.mark.parametrize("window, context", [(1.0, 0.2), (0.5, 0.0), (1.003, 0.1), (100.0, 2.0)])
def test_every_frame_of_the_whole_is_kept_once(samples, window, context, speech):
    wave = speech[:samples]
    found = kept(windows(wave, GEOMETRY, window=window, context=context))
    whole = kept([Window(wave, slice(None), False, False)])
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
        expected = kept([Window(whole, slice(None), False, False)])
        found = kept(windows(tmp_path / "x.wav", GEOMETRY, start=start, duration=duration, window=1.0, context=0.2))
        assert abs(len(found) - len(expected)) <= (rate != 16_000)
        for a, b in list(zip(found, expected, strict=False))[:-2]:
            np.testing.assert_allclose(a, b, atol=0 if rate == 16_000 else 1e-4)


def test_a_short_clip_is_one_window():
    (only,) = windows(CLIP, GEOMETRY)
    np.testing.assert_array_equal(only.wave_S, audio.load(CLIP))


@pytest.mark.parametrize("loudness, least", [(0.0, 1.0), (0.3, 0.95), (1.0, 0.8)])
def test_a_long_clip_is_cut_between_its_words_only(loudness, least):
    """Digits with room noise between them, digital silence too: hardly a pause is missed, and never is a word cut."""
    words = [audio.load(row["path"]) for row in digits(60)]
    wave, spans = with_pauses(words, [0.4, 0.8], loudness)
    found = list(parts(iter(np.array_split(wave, 7)), 160_000, 8_000, context=16_000, hop=320))
    cuts = np.array([part.stop for part in found[:-1]])
    assert not any(((cuts > start + 800) & (cuts < stop - 800)).any() for start, stop in spans)
    gaps = [(a[1] - 800, b[0] + 800) for a, b in pairwise(spans)]
    assert sum(((cuts >= start) & (cuts <= stop)).any() for start, stop in gaps) >= least * len(gaps)
    assert all(part.pause for part in found[:-1]) and not found[-1].pause
    assert np.array_equal(np.concatenate([p.wave_S[p.start - p.first :][: p.stop - p.start] for p in found]), wave)
    assert all(np.array_equal(p.wave_S, wave[p.first :][: len(p.wave_S)]) for p in found)
    kept_frames, whole = (
        kept(windows(wave, GEOMETRY, window=10, utterance=0.5)),
        kept([Window(wave, slice(None), False, False)]),
    )
    assert len(kept_frames) == len(whole)
    assert all(np.array_equal(a, b) for a, b in zip(kept_frames, whole, strict=True))


def test_a_long_pause_is_a_part_of_its_own():
    words = [audio.load(row["path"]) for row in digits(6)]
    wave, spans = with_pauses(words, [4.0], 0.3)
    found = list(parts(iter([wave]), 160_000, 8_000, hop=320))
    spoken = [part for part in found if any(start < part.stop and part.start < stop for start, stop in spans)]
    assert [part.silent for part in found[:-1]] == [True, *[False, True] * len(words)]
    assert len(spoken) == len(words)
    assert all(
        part.stop - part.start < stop - start + 16_000 for part, (start, stop) in zip(spoken, spans, strict=True)
    )


def test_without_a_pause_the_quietest_place_is_taken(speech):
    wave, longest = speech[:160_000], 48_000
    power_S = np.square(np.diff(wave.astype(np.float64), prepend=wave[0]))
    stops = [part.stop for part in parts(iter([wave]), longest, hop=1)]
    for start, stop in zip([0, *stops[:-2]], stops[:-1], strict=True):
        last = min(longest, len(wave) - start - longest // 4)
        centres = range(start + longest // 2 + 2400, start + last - 2400 + 1, 160)
        assert stop == min(centres, key=lambda centre: power_S[centre - 2400 : centre + 2400].sum())
    assert stops[-1] == len(wave) and all(b - a <= longest for a, b in pairwise([0, *stops]))


def test_the_quietest_place_is_found_below_hum_and_offset(clip):
    """50 Hz louder than the speech, and a shifted zero, do not hide a pause."""
    wave = np.concatenate([clip[:16_000], np.zeros(8_000, np.float32), clip[:16_000]])
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(len(wave)) / 16_000) + 0.1
    assert 16_000 <= quietest((wave + hum).astype(np.float32)) <= 24_000


def test_a_hiss_or_a_hum_is_no_speech_and_speech_in_it_is():
    rng, time = np.random.default_rng(0), np.arange(80_000, dtype=np.float32) / 16_000
    hiss = rng.standard_normal(80_000).astype(np.float32)
    hum = np.sin(2 * np.pi * 50 * time) + 0.3 * np.sin(2 * np.pi * 150 * time)
    for noise in (hiss, hum, np.cumsum(hiss) / 100, hiss * 1e-3, np.zeros(80_000, np.float32)):
        assert steady(noise)
    files = [*sorted((DATA / "librispeech").rglob("*.ogg"))[::20], *sorted((DATA / "fsdd").glob("*.flac"))[::50]]
    for file in files:
        wave = audio.load(file)
        assert not steady(wave), file
        if len(wave) > 40_000:
            loudness = float(np.diff(wave).std() / np.diff(hiss).std())  # 0 dB in the band that speech is judged by
            assert not steady(wave + loudness * np.resize(hiss, len(wave))), file


def test_speech_counts_however_faintly_it_was_recorded(speech):
    assert not steady(speech[:160_000] * 1e-5)
