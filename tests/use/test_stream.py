"""Streams of clips: every row once, in order, in batches of a size, with no more read ahead than promised."""

from itertools import chain

import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.data.channels import segment_of
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.tables import read_manifest
from speechssl.use import stream as module
from speechssl.use.stream import AHEAD, TooShort, own_rows, reason, stream_clips
from tests.conftest import DATA, digits

DIGITS = read_manifest(DATA / "fsdd.tsv").select(range(0, 1500, 25))


def lengths(rows: Manifest, indices=None, **changes) -> list:
    """Batches of results whose value is the number of samples; of a long clip, what it was asked for."""
    options = {"reach": 400, "longest": 60.0, "batch_seconds": 3.0, "what": "test"} | changes
    indices = range(len(rows)) if indices is None else indices
    return list(
        stream_clips(rows, indices, lambda waves: list(map(len, waves)), lambda path, **how: (path, how), **options)
    )


def test_every_row_comes_once_in_order_and_batches_keep_their_size():
    batches = lengths(DIGITS)
    results = list(chain.from_iterable(batches))
    assert [result.index for result in results] == list(range(len(DIGITS)))
    assert [result.row.id for result in results] == DIGITS.column("id")
    for result, seconds in zip(results, DIGITS.durations, strict=True):
        assert result.value / 16_000 == result.row.duration == pytest.approx(seconds, abs=1e-3)
    sizes = [sum(result.row.duration for result in batch) for batch in batches]
    assert max(sizes) <= 3.0 and min(sizes[:-1]) > 1.5


def test_what_cannot_be_used_and_what_is_long_keep_their_places(tmp_path):
    (tmp_path / "text.wav").write_text("I am a text")
    first, second, third = list(DIGITS)[:3]
    bad = [Utterance(id=name, path=str(tmp_path / name)) for name in ("gone.wav", "text.wav")]
    short = Utterance(id="short", path=first.path, duration=0.01)
    long = Utterance(id="long", path=str(DATA / "librispeech" / "103-1240-0000.ogg"), start=1.0)
    rows = Manifest.of([first, bad[0], long, second, bad[1], short, third])
    batches = lengths(rows, longest=8.0)
    assert [[result.row.id for result in batch] for batch in batches] == [
        [first.id, "gone.wav"],
        ["long"],
        [second.id, "text.wav", "short", third.id],
    ]
    values = [result.value for result in chain.from_iterable(batches)]
    assert [isinstance(value, InputError) for value in values] == [False, True, False, False, True, True, False]
    assert values[2] == (long.path, segment_of(long)) and batches[1][0].row.duration == 13.085
    assert isinstance(values[5], TooShort)
    assert reason(batches[0][1]).startswith("is missing")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_rows_and_see_the_same_batches(world, monkeypatch):
    monkeypatch.setattr(module, "SHARE", 8)
    shares = [own_rows(len(DIGITS), rank, world) for rank in range(world)]
    assert sorted(chain.from_iterable(shares)) == list(range(len(DIGITS)))
    alone, together = lengths(DIGITS), [batch for share in shares for batch in lengths(DIGITS, share)]
    assert sorted(together, key=lambda batch: batch[0].index) == alone
    assert all(batch[0].index // 8 == batch[-1].index // 8 for batch in alone)
    left = own_rows(len(DIGITS), 0, 1, [(0, alone[2][0].index)])
    assert lengths(DIGITS, left) == alone[2:]


def test_no_more_is_read_than_a_batch_and_what_lies_ahead_of_it(monkeypatch):
    """However many rows there are: this bounds the memory."""
    read, done = module.read, 0
    begun = []
    monkeypatch.setattr(module, "read", lambda *args: begun.append(args[0]) or read(*args))
    rows = DIGITS.select(np.arange(600) % len(DIGITS))
    for batch in stream_clips(
        rows, range(600), lambda waves: waves, print, reach=1, longest=9.0, batch_seconds=3.0, what="x"
    ):
        assert len(begun) <= done + len(batch) + 1 + AHEAD
        done += len(batch)
    assert done == len(begun) == 600


def test_a_bug_in_a_reading_thread_comes_out(monkeypatch):
    monkeypatch.setattr(module.audio, "load", lambda *args, **how: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lengths(Manifest.of([Utterance(id=str(row["id"]), path=str(row["path"])) for row in digits()]))
