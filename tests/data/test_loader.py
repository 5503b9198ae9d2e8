"""Rows to batches: crops that repeat, workers that change nothing, and errors that reach the user as one sentence."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.data.loader import Micro, stream, valid_micros
from speechssl.data.manifest import Manifest, read_manifest
from speechssl.data.sampler import MicroBatch
from speechssl.objectives.protocol import Item
from speechssl.sound import audio
from tests.conftest import CLIP, DATA

ROWS = read_manifest(DATA / "librispeech_test.tsv")


def dataset(manifest: Manifest = ROWS, crop: float = 1.0, seed: int = 1) -> Micro:
    """Items as they are."""
    return Micro(manifest, Item, list, crop, seed)


def test_a_crop_is_part_of_its_clip_and_a_function_of_seed_epoch_and_utterance():
    row = ROWS[0]
    whole = audio.load(row.path)
    crops = {key: dataset(seed=key[0]).item(row, key[1]).wave_S for key in ((1, 0), (1, 1), (2, 0))}
    for crop in crops.values():
        assert len(crop) == 16_000
        places = np.flatnonzero(np.isclose(whole[: len(whole) - 16_000], crop[0], atol=1e-7))
        assert any(np.array_equal(whole[place : place + 16_000], crop) for place in places)
    assert not np.array_equal(crops[1, 0], crops[1, 1])
    assert not np.array_equal(crops[1, 0], crops[2, 0])
    np.testing.assert_array_equal(dataset().item(row, 1).wave_S, crops[1, 1])


def test_clips_under_the_crop_length_and_crops_of_zero_stay_whole():
    for crop in (0.0, 100.0):
        np.testing.assert_array_equal(dataset(crop=crop).item(ROWS[0], 0).wave_S, audio.load(ROWS[0].path))


def test_workers_change_nothing():
    micros = [MicroBatch(rows=(0, 1), epoch=0), MicroBatch(rows=(2,), epoch=3), MicroBatch(rows=(3, 4), epoch=1)]
    alone, shared = (list(stream(dataset(), micros, workers)) for workers in (0, 2))
    for mine, theirs in zip(alone, shared, strict=True):
        assert [item.id for item in mine] == [item.id for item in theirs]
        assert all(np.array_equal(a.wave_S, b.wave_S) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanished_is_told_from_a_worker_too(workers, tmp_path):
    shutil.copy(CLIP, tmp_path / "a.flac")
    rows = Manifest.of([replace(ROWS[0], path=str(tmp_path / "a.flac"))])
    (tmp_path / "a.flac").unlink()
    with pytest.raises(InputError, match=r"a\.flac is missing; .* run `speechssl prepare` again"):
        list(stream(dataset(rows), [MicroBatch(rows=(0,), epoch=0)], workers))
    with pytest.raises(InputError, match="is missing"):
        dataset(rows).batch(MicroBatch(rows=(0,), epoch=0))


def test_a_file_that_became_shorter_is_told():
    row = replace(ROWS[0], duration=ROWS[0].duration + 1)
    with pytest.raises(InputError, match=r"the manifest says .* s; it has changed, run `speechssl prepare` again"):
        dataset(crop=0.0).item(row, 0)


def test_validation_sees_every_row_once_in_order():
    micros = valid_micros(ROWS.durations, 8.0)
    assert [row for micro in micros for row in micro.rows] == list(range(len(ROWS)))
    assert all(len(micro.rows) == 1 or ROWS.durations[list(micro.rows)].sum() <= 8.0 for micro in micros)
