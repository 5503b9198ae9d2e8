"""Log-mels and MFCC every 10 ms, without padding: row 2 t covers the samples of frame t of wav2vec 2.0."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

WINDOW, HOP, RATE = 400, 160, 16_000
BANDS, COEFFICIENTS = 40, 13
WIDTH = 5  # rows that a difference looks at


@cache
def transform() -> Any:
    """torchaudio's MFCC: Hamming windows, energies in decibels down to 80 below the loudest."""
    from torchaudio.transforms import MFCC

    mel = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": BANDS, "f_min": 20.0, "center": False}
    return MFCC(RATE, COEFFICIENTS, melkwargs={**mel, "window_fn": torch.hamming_window})


def log_mels(wave_S: np.ndarray) -> np.ndarray:
    """A wave of S >= 400 samples -> 40 mel bands in decibels, float32 (J, 40); what is 50 dB below the loudest and less is noise,
    and all alike."""
    power_FJ = transform().MelSpectrogram(torch.from_numpy(wave_S))
    decibels_FJ = 10 * power_FJ.clamp_min(1e-5 * float(power_FJ.max())).log10()
    return decibels_FJ.T.contiguous().numpy()


def mfcc(wave_S: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """A wave of S >= 400 samples at 16 kHz -> 13 coefficients, their first and second differences: float32 (J, 39),
    J = (S - 400) // 160 + 1. width: rows that a difference looks at."""
    from torchaudio.functional import compute_deltas, preemphasis

    cepstrum_FJ = transform()(preemphasis(torch.from_numpy(wave_S)))
    first_FJ = compute_deltas(cepstrum_FJ, width)
    rows_FJ: Tensor = torch.cat([cepstrum_FJ, first_FJ, compute_deltas(first_FJ, width)])
    return rows_FJ.T.contiguous().numpy()


def standardised(x_TD: np.ndarray) -> np.ndarray:
    """Every column with zero mean and unit variance over the rows, which removes much of voice and channel."""
    return (x_TD - x_TD.mean(axis=0)) / (x_TD.std(axis=0) + 1e-5)
