"""Which rows make an update: every row once an epoch, the same for any number of processes, from any place on."""

from itertools import count, islice

import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.data.sampler import Position, Updates, epoch_batches, micro_batches
from speechssl.data.tables import read_manifest
from tests.conftest import DATA

SECONDS = read_manifest(DATA / "librispeech.tsv").durations


def test_an_epoch_holds_every_row_once_in_batches_of_the_wanted_length():
    for epoch in range(3):
        batches = epoch_batches(SECONDS, 30.0, seed=1, epoch=epoch)
        assert sorted(np.concatenate(batches)) == list(range(len(SECONDS)))
        lengths = [SECONDS[batch].sum() for batch in batches]
        assert all(abs(length - 30.0) < SECONDS.max() + 1 for length in lengths)
    orders = [
        np.concatenate(epoch_batches(SECONDS, 30.0, seed, epoch)).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_micro_batches_divide_a_batch_among_processes(world):
    batch = epoch_batches(SECONDS, 60.0, seed=1, epoch=0)[0]
    pieces = micro_batches(batch, SECONDS, 20.0, world)
    assert sorted(np.concatenate(pieces)) == sorted(batch)
    assert len(pieces) % world == 0 and all(len(piece) for piece in pieces)
    assert max(SECONDS[piece].sum() for piece in pieces) <= 20.0


def test_a_row_longer_than_a_micro_batch_stands_alone():
    seconds = np.array([1.0, 50.0, 1.0, 1.0])
    pieces = micro_batches(np.arange(4), seconds, 5.0, 1)
    assert [1] in [piece.tolist() for piece in pieces]


def updates(**changes) -> Updates:
    """Updates over the real durations."""
    return Updates(**{"seconds_R": SECONDS, "batch_seconds": 200.0, "micro_seconds": 50.0, "seed": 3} | changes)


def test_starting_anywhere_continues_the_same_sequence():
    whole = list(islice(updates().since(Position()), 40))
    for done in (1, 7, 39):
        assert list(islice(updates().since(whole[done - 1][0]), 40 - done)) == whole[done:]
    assert whole[-1][0].epoch > 0


def test_processes_share_what_one_would_see():
    alone = list(islice(updates().since(Position()), 12))
    ranks = [list(islice(updates(rank=rank, world=2).since(Position()), 12)) for rank in range(2)]
    for (after, micros), *shares in zip(alone, *ranks, strict=True):
        rows = sorted(row for micro in micros for row in micro.rows)
        assert sorted(row for _, own in shares for micro in own for row in micro.rows) == rows
        assert all(share_after == after for share_after, _ in shares)


def test_an_update_with_fewer_rows_than_processes_is_refused_before_the_first():
    """A tenth of such updates is too few to meet one early: 8 processes, clips of 1 to 16 s, updates of 80 s."""
    seconds = np.random.default_rng(0).uniform(1, 16, 6000)
    given = updates(seconds_R=seconds, batch_seconds=80.0, micro_seconds=20.0, world=8)
    with pytest.raises(
        InputError, match=r"has an update of \d utterances, which 8 processes cannot share; raise data\.batch"
    ):
        given.check(600)
    next(given.since(Position()))  # the first update itself is well
    updates(seconds_R=seconds, batch_seconds=400.0, micro_seconds=20.0, world=8).check(600)


def test_the_check_agrees_with_going_through_the_updates():
    rng, refused = np.random.default_rng(1), 0
    for _ in range(300):
        seconds = rng.uniform(0.5, rng.uniform(1, 20), rng.integers(3, 80))
        world, steps = int(rng.integers(1, 7)), int(rng.integers(1, 30))
        batch_seconds = float(rng.uniform(1, 12 * seconds.max()))
        given = updates(seconds_R=seconds, batch_seconds=batch_seconds, seed=int(rng.integers(99)), world=world)
        sizes = []
        for epoch in count():
            sizes += map(len, epoch_batches(seconds, batch_seconds, given.seed, epoch))
            if len(sizes) >= steps:
                break
        try:
            given.check(steps)
            assert min(sizes[:steps]) >= world
        except InputError:
            assert min(sizes[:steps]) < world
            refused += 1
    assert 50 < refused < 250
