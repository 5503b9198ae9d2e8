"""Labels of an utterance's frames stay with its frames, wherever a random crop starts."""

from collections.abc import Sequence

import numpy as np
import pytest

from speechssl.core.packed import Geometry
from speechssl.data.loader import Item, MicroBatches
from speechssl.data.manifest import Utterance
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from tests.conftest import DATA

ROWS = read_manifest(DATA / "librispeech_test.tsv")
GEOMETRY = Geometry(kernels=(400,), strides=(320,))


class Numbered:
    """Labels each frame with its own number."""

    def labels(self, utterance: Utterance) -> np.ndarray:
        return np.arange(GEOMETRY.frames(len(audio.load(utterance.path))))

    def collate(self, items: Sequence[Item]) -> list[Item]:
        return list(items)


@pytest.mark.parametrize("crop", [0.0, 0.31, 1.0, 1.77])
def test_labels_follow_the_crop(crop):
    micros = MicroBatches(ROWS, Numbered(), crop, seed=3)
    starts = set()
    for epoch in range(20):
        item = micros.item(ROWS[0], epoch)
        frames = GEOMETRY.frames(len(item.wave_S))
        labels_T = item.frame_labels(GEOMETRY.hop, frames)
        assert len(labels_T) == frames
        offsets_T = labels_T * GEOMETRY.hop - (item.start + np.arange(frames) * GEOMETRY.hop)
        assert np.abs(offsets_T).max() <= (GEOMETRY.hop / 2 if labels_T[-1] < len(item.labels) - 1 else GEOMETRY.hop)
        whole = audio.load(ROWS[0].path)
        np.testing.assert_array_equal(item.wave_S, whole[item.start :][: len(item.wave_S)])
        starts.add(item.start)
    assert len(starts) == (20 if crop else 1)


def test_a_segment_counts_from_its_own_start(tmp_path):
    """`start` is the place in the utterance, not in the recording that holds it."""
    row = Utterance(id="part", path=ROWS[0].path, start=0.5, duration=1.2)
    item = MicroBatches(ROWS, Numbered(), 1.0, seed=1).item(row, 0)
    assert 0 <= item.start <= 0.2 * audio.SAMPLE_RATE


@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_labels_follow_the_speed(crop):
    """Frame t of a clip that is played 1.2 times as fast is frame 1.2 t of the clip."""
    micros, speeds = MicroBatches(ROWS, Numbered(), crop, seed=3, speed_change=0.3), []
    for epoch in range(20):
        item = micros.item(ROWS[0], epoch)
        frames, played = GEOMETRY.frames(len(item.wave_S)), crop or len(audio.load(ROWS[0].path)) / audio.SAMPLE_RATE
        labels_T = item.frame_labels(GEOMETRY.hop, frames)
        assert len(item.wave_S) == pytest.approx(played * audio.SAMPLE_RATE / item.speed, abs=2)
        wanted_T = np.minimum(item.start / GEOMETRY.hop + np.arange(frames) * item.speed, len(item.labels) - 1)
        assert np.abs(labels_T - wanted_T).max() <= 0.5 + 1e-6
        speeds.append(item.speed)
    assert min(speeds) < 0.85 and max(speeds) > 1.15 and len(set(speeds)) == 20
    again = MicroBatches(ROWS, Numbered(), crop, seed=3, speed_change=0.3).item(ROWS[0], 4)
    np.testing.assert_array_equal(again.wave_S, micros.item(ROWS[0], 4).wave_S)
