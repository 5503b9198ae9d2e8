"""Which frames are masked and who are the distractors: functions of (seed, epoch, utterance), nothing else.

Span masking: wav2vec 2.0, section 3.1 and appendix A. Distractors: section 3.2. Runs in the loader's workers (numpy).
"""

import numpy as np

from speechssl.core.noise import noise_key

LEAST_SPANS = 2  # of an utterance, as in fairseq and transformers: a single span leaves few distractors


def span_mask(frames: int, prob: float, length: int, key: int) -> np.ndarray:
    """Boolean mask (T,) of overlapping spans: int(prob * T / length + u) starts, u uniform, drawn without replacement.

    Defined for any T >= 1: spans are shortened to T frames at most, every span lies inside the utterance, and there are at
    least two, unless only one fits. prob = 0 masks nothing.
    """
    if prob == 0:
        return np.zeros(frames, dtype=bool)
    rng = np.random.default_rng(key)
    length = min(length, frames)
    count = max(LEAST_SPANS, int(prob * frames / length + rng.random()))
    last = frames - length + 1
    starts = rng.choice(last, size=min(count, last), replace=False)
    mask = np.zeros(frames, dtype=bool)
    mask[(starts[:, None] + np.arange(length)).ravel()] = True
    return mask


def channel_mask(channels: int, prob: float, length: int, key: int) -> np.ndarray:
    """Boolean mask (D,) of channels, by the same rule as for time but with no span at least (appendix B)."""
    rng = np.random.default_rng(key)
    length = min(length, channels)
    count = int(prob * channels / length + rng.random())
    starts = rng.choice(channels - length + 1, size=min(count, channels - length + 1), replace=False)
    mask = np.zeros(channels, dtype=bool)
    mask[(starts[:, None] + np.arange(length)).ravel()] = True
    return mask


def distractor_counts(masked: int, negatives: int, key: int) -> np.ndarray:
    """How often each masked frame serves as a distractor of each other one: (M, M) uint8, rows sum to `negatives`.

    Uniform over the other masked frames of the same utterance, with replacement; the diagonal is zero. With M = 1
    there is no distractor and the matrix is zero.
    """
    if masked < 2:
        return np.zeros((masked, masked), dtype=np.uint8)
    rng = np.random.default_rng(key)
    draws = rng.integers(0, masked - 1, size=(masked, negatives), dtype=np.int32)
    rows = np.arange(masked, dtype=np.int32)[:, None]
    draws += draws >= rows
    return (
        np.bincount((draws + rows * masked).ravel(), minlength=masked * masked).reshape(masked, masked).astype(np.uint8)
    )


def skipped_layers(layers: int, chance: float, seed: int, step: int) -> frozenset[int]:
    """Layer drop: the transformer layers that update `step` leaves out, the same on every rank (Fan et al. 2019)."""
    draws = np.random.default_rng(noise_key("layerdrop", seed, step)).random(layers)
    return frozenset(np.flatnonzero(draws < chance).tolist())
