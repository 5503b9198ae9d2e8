"""Rows to batches: crops that repeat, workers that change nothing, and errors that reach the user as one sentence."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.data.loader import Item, MicroBatches, in_order, load_ahead, load_updates, once_over
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.sampler import MicroBatch, Position, Updates
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from tests.conftest import CLIP, DATA

ROWS = read_manifest(DATA / "librispeech_test.tsv")


class AsTheyAre:
    """A collator of items as they are, whose frame labels are the number of each 20 ms."""

    def labels(self, utterance: Utterance) -> np.ndarray:
        return np.arange(round(utterance.duration * 50))

    def collate(self, items: Sequence[Item]) -> list[Item]:
        return list(items)


def dataset(manifest: Manifest = ROWS, crop: float = 1.0, seed: int = 1) -> MicroBatches:
    """Items as they are."""
    return MicroBatches(manifest, AsTheyAre(), crop, seed)


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


def test_an_item_knows_where_its_crop_starts_and_has_the_labels_of_the_whole_utterance():
    row = ROWS[0]
    whole = audio.load(row.path)
    for epoch in range(5):
        item = dataset().item(row, epoch)
        np.testing.assert_array_equal(whole[item.start : item.start + len(item.wave_S)], item.wave_S)
        assert item.labels is not None and len(item.labels) == round(row.duration * 50)
    assert dataset(crop=0.0).item(row, 0).start == 0


def test_clips_under_the_crop_length_and_crops_of_zero_stay_whole():
    for crop in (0.0, 100.0):
        np.testing.assert_array_equal(dataset(crop=crop).item(ROWS[0], 0).wave_S, audio.load(ROWS[0].path))


def test_workers_change_nothing():
    micros = [MicroBatch(rows=(0, 1), epoch=0), MicroBatch(rows=(2,), epoch=3), MicroBatch(rows=(3, 4), epoch=1)]
    alone, shared = (list(load_ahead(dataset(), micros, workers)) for workers in (0, 2))
    for mine, theirs in zip(alone, shared, strict=True):
        assert [item.id for item in mine] == [item.id for item in theirs]
        assert all(np.array_equal(a.wave_S, b.wave_S) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanished_is_told_from_a_worker_too(workers, tmp_path):
    shutil.copy(CLIP, tmp_path / "a.flac")
    rows = Manifest.of([replace(ROWS[0], path=str(tmp_path / "a.flac"))])
    (tmp_path / "a.flac").unlink()
    with pytest.raises(InputError, match=r"a\.flac is missing; .* run `speechssl prepare` again"):
        list(load_ahead(dataset(rows), [MicroBatch(rows=(0,), epoch=0)], workers))
    with pytest.raises(InputError, match="is missing"):
        dataset(rows).batch(MicroBatch(rows=(0,), epoch=0))


def test_a_file_that_became_shorter_is_told():
    row = replace(ROWS[0], duration=ROWS[0].duration + 1)
    with pytest.raises(InputError, match=r"the manifest says .* s; it has changed, run `speechssl prepare` again"):
        dataset(crop=0.0).item(row, 0)


def test_validation_sees_every_row_once_in_order():
    micros = in_order(ROWS.durations, 8.0)
    assert [row for micro in micros for row in micro.rows] == list(range(len(ROWS)))
    assert all(len(micro.rows) == 1 or ROWS.durations[list(micro.rows)].sum() <= 8.0 for micro in micros)


@pytest.mark.parametrize("workers", [0, 1])
def test_updates_are_loaded_from_any_place_on(workers):
    data = dataset()
    updates = Updates(seconds_R=data.seconds_R, batch_seconds=3.0, micro_seconds=2.0, seed=1)
    whole = list(islice(load_updates(data, updates, Position(), workers), 9))
    later = list(islice(load_updates(data, updates, whole[3][0], workers), 5))
    expected = islice(updates.since(Position()), 9)
    for (after, batches), (place, micros) in zip(whole, expected, strict=True):
        assert after == place
        assert [[item.id for item in batch] for batch in batches] == [
            [ROWS[row].id for row in micro.rows] for micro in micros
        ]
    assert [[item.id for batch in batches for item in batch] for _, batches in later] == [
        [item.id for batch in batches for item in batch] for _, batches in whole[4:]
    ]


@pytest.mark.parametrize("world", [1, 2, 3, 100])
def test_ranks_share_a_validation_set_unless_it_has_fewer_micro_batches(world):
    data = dataset(crop=0.0)
    shares = [[item.id for batch in once_over(data, 8.0, rank, world, 0)() for item in batch] for rank in range(world)]
    everything = [row.id for row in ROWS]
    if world == 100:
        assert all(share == everything for share in shares)
    else:
        assert sorted(name for share in shares for name in share) == sorted(everything)
