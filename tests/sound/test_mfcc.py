"""MFCC against librosa, and against the frames of the encoder that they are aligned with."""

import librosa
import numpy as np
import pytest

from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.sound.mfcc import mfcc, standardised


def by_librosa(wave_S: np.ndarray, width: int) -> np.ndarray:
    mel = dict(
        sr=16_000, n_fft=400, hop_length=160, n_mels=40, fmin=20, center=False, window="hamming", htk=True, norm=None
    )
    power_FJ = librosa.feature.melspectrogram(y=librosa.effects.preemphasis(wave_S, zi=[0.0]), **mel)
    rows = [librosa.feature.mfcc(S=librosa.power_to_db(power_FJ, top_db=80), n_mfcc=13)]
    for _ in range(2):
        rows.append(librosa.feature.delta(rows[-1], width=width, mode="nearest"))
    return np.concatenate(rows).T


@pytest.mark.parametrize("width", [5, 9])
def test_they_are_librosas(clip, width):
    np.testing.assert_allclose(mfcc(clip, width), by_librosa(clip, width), atol=2e-3)


@pytest.mark.parametrize("samples", [400, 719, 720, 721, 16_000])
def test_every_other_row_belongs_to_a_frame_of_the_encoder(samples, speech):
    assert len(mfcc(speech[:samples])[::2]) == Wav2Vec2Config().geometry.frames(samples)


def test_standardised_columns(clip):
    x = standardised(mfcc(clip))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-2)
