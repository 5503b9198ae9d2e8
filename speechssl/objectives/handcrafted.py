"""Handcrafted features of a clip, the target of Hybrid BYOL-S: librosa's (free), or openSMILE's (not for commercial use)."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from speechssl.core.errors import InputError
from speechssl.sound.audio import SAMPLE_RATE as RATE

STATISTICS = ("mean", "std", "p10", "p90")
SHAPES = ("energy", "f0", "voicing", "centroid", "bandwidth", "rolloff", "flatness", "zcr", "flux")
CURVES = (*(f"mfcc{i:02d}" for i in range(20)), *SHAPES)


class Target(NamedTuple):
    """names: () -> one name per feature. compute: wave (S,) at 16 kHz -> the features (K,)."""

    names: Callable[[], list[str]]
    compute: Callable[[np.ndarray], np.ndarray]


def librosa_names() -> list[str]:
    """Statistics of curves over the clip, and of the curves' slopes."""
    return [f"{curve}_{name}" for curve, name in product(CURVES, (*STATISTICS, "slope"))]


def librosa_functionals(wave_S: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, 10th and 90th percentile and mean absolute change of each of the curves."""
    curves_CT = librosa_curves(wave_S)
    parts = [curves_CT.mean(1), curves_CT.std(1), *np.percentile(curves_CT, (10, 90), axis=1)]
    parts.append(np.abs(np.diff(curves_CT, axis=1)).mean(1) if curves_CT.shape[1] > 1 else parts[0] * 0)
    return np.nan_to_num(np.stack(parts, axis=1).ravel()).astype(np.float32)


def librosa_curves(wave_S: np.ndarray) -> np.ndarray:
    """The curves (C, T) in the order of CURVES, a frame every 16 ms; pitch in octaves above 60 Hz, 0 where unvoiced."""
    import librosa

    hop, size = 256, 1024
    wave_S = np.pad(wave_S, (0, max(0, 2 * size - len(wave_S))))
    magnitude = np.abs(librosa.stft(wave_S, n_fft=size, hop_length=hop))
    power = magnitude**2
    mel = np.log(librosa.feature.melspectrogram(S=power, sr=RATE, n_mels=40, fmax=7800) + 1e-7)
    energy = np.log(power.sum(axis=0) + 1e-7)
    pitch, voicing = pitch_and_voicing(wave_S, size, hop, magnitude.shape[1])
    total = magnitude / (magnitude.sum(axis=0) + 1e-7)
    curves = [
        *librosa.feature.mfcc(S=mel, n_mfcc=20),
        energy,
        pitch,
        voicing,
        librosa.feature.spectral_centroid(S=magnitude, sr=RATE)[0] / 1000,
        librosa.feature.spectral_bandwidth(S=magnitude, sr=RATE)[0] / 1000,
        librosa.feature.spectral_rolloff(S=magnitude, sr=RATE)[0] / 1000,
        np.log(librosa.feature.spectral_flatness(S=magnitude)[0] + 1e-7),
        librosa.feature.zero_crossing_rate(wave_S, frame_length=size, hop_length=hop)[0],
        np.r_[0.0, np.abs(np.diff(total, axis=1)).sum(axis=0)],
    ]
    return np.stack([curve[: magnitude.shape[1]] for curve in curves])


def pitch_and_voicing(wave_S: np.ndarray, size: int, hop: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(pitch in octaves above 60 Hz, 0 where unvoiced; voicing): place and height of a peak of the normalised autocorrelation.

    Between 60 and 500 Hz, the peak of the shortest lag that reaches 0.85 times the highest: multiples of a period peak as high as
    the period itself. A height under 0.4 counts as unvoiced.
    """
    padded = np.pad(wave_S, size // 2)
    pieces_TS = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:frames]
    pieces_TS = (pieces_TS - pieces_TS.mean(axis=1, keepdims=True)) * np.hanning(size)
    spectrum = np.abs(np.fft.rfft(pieces_TS, 2 * size)) ** 2
    lags_TS = np.fft.irfft(spectrum)[:, : RATE // 60 + 1]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 2 * size)) ** 2)[: RATE // 60 + 1]
    scores = (lags_TS / (lags_TS[:, :1] + 1e-7) / (window / window[0]))[:, RATE // 500 :]
    inner, highest = scores[:, 1:-1], scores.max(axis=1, keepdims=True)
    peaks = (inner >= scores[:, :-2]) & (inner > scores[:, 2:]) & (inner > 0.85 * highest)
    best = np.where(peaks.any(axis=1), peaks.argmax(axis=1) + 1, scores.argmax(axis=1))
    height = np.clip(scores[np.arange(len(best)), best], 0, 1)
    octave = np.log2(RATE / (best + RATE // 500) / 60)
    return np.where(height > 0.4, octave, 0.0), height


@cache
def smile(name: str) -> Any:
    """openSMILE's extractor, made once per process."""
    try:
        import opensmile
    except ImportError:
        raise InputError(
            "objective.hybrid = egemaps or compare needs the package opensmile, whose licence forbids commercial use: "
            "pip install 'speechssl[opensmile]', or take objective.hybrid = librosa"
        ) from None
    sets = {"egemaps": opensmile.FeatureSet.eGeMAPSv02, "compare": opensmile.FeatureSet.ComParE_2016}
    return opensmile.Smile(feature_set=sets[name], feature_level=opensmile.FeatureLevel.Functionals)


def opensmile_target(name: str) -> Target:
    """A feature set of openSMILE: eGeMAPS (88) or ComParE 2016 (6,373)."""

    def compute(wave_S: np.ndarray) -> np.ndarray:
        return np.nan_to_num(smile(name).process_signal(wave_S, RATE).to_numpy()[0]).astype(np.float32)

    return Target(lambda: list(smile(name).feature_names), compute)


TARGETS: dict[str, Target] = {
    "none": Target(list, lambda wave_S: np.zeros(0, dtype=np.float32)),
    "librosa": Target(librosa_names, librosa_functionals),
    "egemaps": opensmile_target("egemaps"),
    "compare": opensmile_target("compare"),
}
