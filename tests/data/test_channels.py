"""Channels: of files with several speakers, in opposite phase, in prepare, embed and the loader."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

import speechssl
from speechssl.core.errors import InputError
from speechssl.data.channels import by_channel, segment_of
from speechssl.data.loader import MicroBatches
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.use.embed import embed_to_parquet
from speechssl.use.stream import read
from tests.conftest import write_table


@pytest.fixture
def calls(speech, tmp_path):
    """A call of two people, a recording of one, one in opposite phase, and a call with an empty channel."""
    folder = tmp_path / "calls"
    folder.mkdir()
    left_S, right_S = speech[:32_000], speech[100_000:132_000]
    for name, columns in {
        "call": [left_S, right_S],
        "mono": [left_S],
        "opposed": [-0.5 * left_S, left_S],
        "half": [left_S, 0 * left_S],
    }.items():
        soundfile.write(folder / f"{name}.wav", np.stack(columns, axis=1), 16_000, subtype="FLOAT")
    return folder


def test_each_channel_becomes_a_row_that_every_verb_reads(calls, speech, pretrained_folder, tmp_path):
    summary = prepare(calls, tmp_path / "x.tsv", channel="each", jobs=1)
    rows = read_manifest(tmp_path / "x.tsv")
    assert [(row.id, row.channel) for row in rows] == [
        ("call.wav.left", "left"),
        ("call.wav.right", "right"),
        ("half.wav.left", "left"),
        ("mono.wav", ""),
        ("opposed.wav.left", "left"),
        ("opposed.wav.right", "right"),
    ]
    assert summary.reasons == {"silent": 1} and summary.opposed == 0
    right_S = speech[100_000:132_000]
    assert np.array_equal(audio.load(rows[1].path, **segment_of(rows[1])), right_S)
    assert np.array_equal(read(1, rows[1], 60.0, 400).value, right_S)
    item = MicroBatches(rows, Labels(), 1.0, 1).item(rows[1], 0)
    assert np.array_equal(item.wave_S, right_S[item.start :][:16_000])
    model = speechssl.load(pretrained_folder)
    embed_to_parquet(model, [tmp_path / "x.tsv"], tmp_path / "x.parquet")
    embed_to_parquet(model, [calls / "call.wav"], tmp_path / "y.parquet", channel="each")
    vectors, again = (pq.read_table(tmp_path / f"{name}.parquet").to_pydict() for name in "xy")
    assert again["channel"] == ["left", "right"] and vectors["channel"][:2] == ["left", "right"]
    np.testing.assert_allclose(again["vector"], vectors["vector"][:2], atol=1e-5)
    np.testing.assert_allclose(vectors["vector"][1], model.embed(right_S), atol=1e-5)


class Labels:
    """What the loader needs of an objective."""

    def labels(self, _utterance):
        return None


def test_one_channel_by_name_or_number(calls, tmp_path):
    for channel in ("right", "1"):
        summary = prepare(calls, tmp_path / "x.tsv", channel=channel, jobs=1)
        kept = [(row.id, row.channel) for row in read_manifest(tmp_path / "x.tsv")]
        assert kept == [("call.wav", channel), ("opposed.wav", channel)]
        assert summary.reasons == {"silent": 1, "has no such channel": 1}


def test_opposite_phase_is_counted_and_the_louder_channel_written(calls, tmp_path):
    summary = prepare(calls, tmp_path / "x.tsv", jobs=1)
    rows = {row.id: row for row in read_manifest(tmp_path / "x.tsv")}
    assert {name: row.channel for name, row in rows.items()} == {
        "call.wav": "",
        "half.wav": "",
        "mono.wav": "",
        "opposed.wav": "right",
    }
    assert "  1 row: channels in opposite phase cancel each other out; the louder one is used" in str(summary)
    assert prepare(calls, tmp_path / "x.tsv", jobs=1).opposed == 1  # from the cache


def test_a_row_keeps_the_channel_that_it_names(calls, tmp_path):
    rows = [{"id": "a", "path": calls / "call.wav", "channel": "left"}, {"id": "b", "path": calls / "call.wav"}]
    prepare(write_table(tmp_path / "in.tsv", *rows), tmp_path / "x.tsv", channel="right", jobs=1)
    assert [row.channel for row in read_manifest(tmp_path / "x.tsv")] == ["left", "right"]


def test_slips(calls, tmp_path):
    with pytest.raises(InputError, match="--channel middle: it is mix, left, right, each, or a number from 0"):
        prepare(calls, tmp_path / "x.tsv", channel="middle")
    table = write_table(
        tmp_path / "in.tsv", {"path": calls / "call.wav", "channel": "phone"}, {"path": calls / "mono.wav"}
    )
    summary = prepare(table, tmp_path / "x.tsv", jobs=1)
    assert list(summary.reasons) == ["channel = 'phone' is not left, right, mix or a number from 0"]


def test_files_of_more_channels_are_numbered(tmp_path):
    rows = [Utterance(id="x", path="x.wav"), Utterance(id="gone", path=str(tmp_path / "gone.wav"))]
    found = list(by_channel(rows[:1], "each", lambda _: list("0123")))
    assert [(row.id, row.channel) for row in found] == [(f"x.{n}", str(n)) for n in range(4)]
    assert list(by_channel(rows[1:], "each")) == rows[1:]  # told when it is read
    assert len(Manifest.of(found)) == 4
