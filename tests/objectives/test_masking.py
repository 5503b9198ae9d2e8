"""Masks and distractors: rate, spans, short utterances, and that they are functions of their key."""

import numpy as np
import pytest

from speechssl.core.noise import noise_key
from speechssl.objectives.masking import channel_mask, distractor_counts, span_mask

PAPER = dict(prob=0.65, length=10)


def mean_rate(frames: int, draws: int = 400, **rule) -> float:
    """Average part of the frames that is masked."""
    return float(np.mean([span_mask(frames, key=noise_key(frames, i), **(PAPER | rule)).mean() for i in range(draws)]))


def test_every_utterance_of_a_ragged_batch_is_masked_at_the_same_rate():
    """About 49 % with the paper's numbers, within 3 % whatever the length (spans that would leave the utterance make
    its edges rarer, which only the shortest feel)."""
    rates = [mean_rate(frames) for frames in (100, 200, 400, 781, 1500)]
    assert max(rates) - min(rates) < 0.03
    assert np.mean(rates) == pytest.approx(0.49, abs=0.02)


def test_spans_are_whole():
    for key in range(50):
        mask = span_mask(300, key=key, **PAPER)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
        assert ((edges[1::2] - edges[::2]) >= 10).all()


@pytest.mark.parametrize("frames", [1, 2, 5, 9, 10, 11, 30])
def test_defined_for_any_length(frames):
    for key in range(20):
        mask = span_mask(frames, key=key, **PAPER)
        assert mask.shape == (frames,)
        assert mask.any()


def test_a_function_of_seed_epoch_and_utterance():
    keys = [noise_key("mask", seed, epoch, name) for seed in (1, 2) for epoch in (0, 1) for name in ("a", "b")]
    masks = [span_mask(200, key=key, **PAPER).tobytes() for key in keys]
    assert len(set(masks)) == len(masks)
    assert masks == [span_mask(200, key=key, **PAPER).tobytes() for key in keys]
    assert noise_key("mask", 1, 0, "a") == 7788282916345623866  # the same on every machine and in every process


@pytest.mark.parametrize("masked", [2, 3, 50, 360])
def test_distractors_are_other_frames_and_k_of_them(masked):
    counts_MM = distractor_counts(masked, 100, key=7)
    assert counts_MM.shape == (masked, masked)
    assert (np.diagonal(counts_MM) == 0).all()
    assert (counts_MM.sum(axis=1, dtype=int) == 100).all()


def test_distractors_are_uniform():
    counts = sum(distractor_counts(11, 100, key).astype(int) for key in range(500))
    off_diagonal = counts[~np.eye(11, dtype=bool)]
    assert off_diagonal / (500 * 10) == pytest.approx(np.ones(110), abs=0.06)


def test_a_single_masked_frame_has_no_distractor():
    assert distractor_counts(1, 100, key=3).tolist() == [[0]]


def test_no_channel_masking_without_probability():
    assert not channel_mask(64, 0.0, 8, key=1).any()
    rate = np.mean([channel_mask(768, 0.5, 64, key).mean() for key in range(300)])
    assert rate == pytest.approx(0.39, abs=0.03)  # 6 spans of 64 of 768 channels, overlaps allowed


def test_an_utterance_has_two_spans_where_they_fit():
    """As in fairseq and transformers (min_masks = 2); two different starts mask more than one span's frames."""
    for key in range(200):
        assert 10 < span_mask(40, 0.05, 10, key).sum() <= 20
        assert span_mask(11, 0.05, 10, key).sum() == 11
    assert span_mask(10, 0.05, 10, 1).sum() == 10
    assert span_mask(3, 0.05, 10, 1).sum() == 3
