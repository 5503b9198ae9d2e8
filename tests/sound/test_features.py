"""The log-mel flavours against librosa, and against torchaudio's and nnAudio's numbers."""

import librosa
import numpy as np
import pytest
import torch

from speechssl.sound.features import LogMel, filterbank
from tests.models.byols_reference import REFERENCE


def test_slaney_flavour_is_librosa(speech):
    wave_S = speech[:16000]
    mel_FT = librosa.feature.melspectrogram(
        y=wave_S, sr=16000, n_fft=1024, hop_length=160, n_mels=64, fmin=60, fmax=7800
    )
    ours_FT = LogMel("librosa")(torch.from_numpy(wave_S)[None])[0].numpy()
    np.testing.assert_allclose(ours_FT, np.log(mel_FT + np.finfo(np.float32).eps), atol=1e-3)


def test_htk_filterbank_is_librosas_htk():
    theirs = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=64, fmin=60, fmax=7800, htk=True, norm=None)
    np.testing.assert_allclose(filterbank(slaney=False).T.numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize(
    "name, key",
    [
        ("byol-s", "lms_a_win400"),
        ("byol-a", "lms_a_win1024"),
        ("librosa", "lms_a_librosa_slaney_win1024"),
        ("nnaudio", "lms_a_nnaudio_win1024"),
    ],
)
def test_flavours_equal_the_published_front_ends(name, key):
    """In the frames that see nothing of the clip's end, which the reference does not have here."""
    ours_FT = LogMel(name)(torch.from_numpy(REFERENCE["signal_a"])[None])[0].numpy()
    theirs_FT = REFERENCE[key]
    np.testing.assert_allclose(ours_FT[::3, ::3][:, : theirs_FT.shape[1]], theirs_FT, atol=5e-4)


def test_very_short_waves_have_a_spectrogram():
    assert LogMel("byol-s")(torch.zeros(1, 3)).isfinite().all()
