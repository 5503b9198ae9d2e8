"""Embeddings against the hidden states themselves; long clips in windows; what the Parquet file holds."""

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

import speechssl
from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.use import embed, parts, stream
from speechssl.use.embed import embed_clip, embed_to_parquet
from speechssl.use.pooling import POOLS
from tests.conftest import CLIP, DATA, ROOT, digits, write_table


@pytest.fixture(scope="module")
def model(pretrained_folder):
    """A tiny model of random weights."""
    return speechssl.load(pretrained_folder)


@pytest.mark.parametrize("pool, reduce", [("mean", np.mean), ("mean+max", None), ("none", lambda x, axis: x)])
def test_one_clip_is_its_pooled_hidden_states(model, clip, pool, reduce):
    states_LTD = model.hidden_states([clip])[0].numpy()
    expected_LD = (
        np.concatenate([states_LTD.mean(1), states_LTD.max(1)], axis=-1)
        if reduce is None
        else reduce(states_LTD, axis=1)
    )
    np.testing.assert_allclose(model.embed(CLIP, layer="all", pool=pool), expected_LD, atol=1e-5)
    np.testing.assert_allclose(model.embed(CLIP, pool=pool), expected_LD[-1], atol=1e-5)
    np.testing.assert_allclose(model.embed(CLIP, layer=0, pool=pool), expected_LD[0], atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_windows_of_a_long_clip_pool_every_frame_once(model, speech, tmp_path, pool, monkeypatch):
    wave = speech[: 16_000 * 12 + 50]
    soundfile.write(tmp_path / "x.wav", wave, 16_000, subtype="FLOAT")
    whole = embed_clip(model, wave, layer="all", pool=pool)
    monkeypatch.setattr(embed, "LONGEST", 5.0)
    sizes, ask = [], model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda waves, layers: sizes.append(len(waves[0])) or ask(waves, layers))
    cut = embed_clip(model, tmp_path / "x.wav", layer="all", pool=pool)
    assert cut.shape == whole.shape
    assert max(sizes) <= 9 * 16_000
    scale = np.abs(whole).max()  # attention beyond the context and the norm of the first layer differ a little
    assert np.abs(cut - whole).mean() < 0.05 * scale


def test_the_table_holds_what_single_clips_give(model, tmp_path, monkeypatch):
    rows = digits()
    source = write_table(tmp_path / "x.tsv", *rows)
    monkeypatch.setattr(parts, "GROUP", 100)  # several groups of rows
    done = embed_to_parquet(model, [source], tmp_path / "e.parquet", batch_seconds=2.0)
    table = pq.read_table(tmp_path / "e.parquet")
    assert (done.rows, done.width, table.num_rows) == (len(rows), model.config.hidden_size, len(rows))
    for name in ("id", "speaker", "label", "text", "split"):
        assert table[name].to_pylist() == [str(row[name]) for row in rows]
    for row, vector in zip(rows, table["vector"].to_pylist(), strict=True):
        np.testing.assert_allclose(vector, embed_clip(model, row["path"], duration=row["duration"]), atol=1e-5)
    assert table.schema.metadata[b"speechssl.layer"] == b"2"


def test_layers_and_frames_have_columns_of_their_own(model, tmp_path):
    source = write_table(tmp_path / "x.tsv", *digits())
    embed_to_parquet(model, [source], tmp_path / "a.parquet", layer="all")
    embed_to_parquet(model, [source], tmp_path / "f.parquet", pool="none")
    layers, frames = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "f.parquet")
    assert [name for name in layers.column_names if name.startswith("vector")] == [
        "vector_00",
        "vector_01",
        "vector_02",
    ]
    width = model.config.hidden_size
    for vector, count in zip(frames["vector"].to_pylist(), frames["frames"].to_pylist(), strict=True):
        assert len(vector) == count * width


def test_long_and_short_clips_keep_their_order(model, speech, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "LONGEST", 3.0)
    rows = [{"id": str(i), "path": f"{i}.wav"} for i in range(4)]
    for row, seconds in zip(rows, (1, 4, 2, 5), strict=True):
        soundfile.write(tmp_path / row["path"], speech[: seconds * 16_000], 16_000)
    embed_to_parquet(model, [write_table(tmp_path / "x.tsv", *rows)], tmp_path / "e.parquet", batch_seconds=100.0)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["id"].to_pylist() == ["0", "1", "2", "3"]
    assert table["duration"].to_pylist() == [1.0, 4.0, 2.0, 5.0]


def test_sources_may_be_folders_files_and_manifests(model, tmp_path):
    found = embed_to_parquet(model, [DATA / "kerstin", CLIP, DATA / "librivox.tsv"], tmp_path / "e.parquet")
    assert found.rows == len(list((DATA / "kerstin").iterdir())) + 1 + len(list((DATA / "librivox").iterdir()))


def test_what_cannot_be_embedded_is_left_out_and_listed(model, speech, tmp_path):
    (tmp_path / "text.wav").write_text("I am a text")
    soundfile.write(tmp_path / "short.wav", speech[:300], 16_000)
    names = ("text.wav", "short.wav", "gone.wav")
    source = write_table(tmp_path / "x.tsv", *digits(), *[{"id": n, "path": n, "duration": ""} for n in names])
    done = embed_to_parquet(model, [source], tmp_path / "e.parquet")
    assert [path.rsplit("/", 1)[1] for path, _ in done.rejected] == list(names)
    listed = (tmp_path / "e.parquet.rejected.tsv").read_text().splitlines()
    assert len(listed) == 1 + len(names) and "less than one frame" in listed[2] and "missing" in listed[3]
    before = (tmp_path / "e.parquet").read_bytes()
    with pytest.raises(InputError, match=r"none of the 1 clips .*gone\.wav is missing"):
        embed_to_parquet(model, [tmp_path / "gone.wav"], tmp_path / "e.parquet")
    assert (tmp_path / "e.parquet").read_bytes() == before


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"layer": "99"}, "layer = 99 does not exist; the model has 0"),
        ({"layer": "first"}, "layer = 'first' is not known"),
        ({"pool": "median"}, "pool = 'median' is not known"),
        ({"where": "split=x"}, "no row of the manifest has split=x"),
    ],
    ids=str,
)
def test_slips(options, complaint, model, tmp_path):
    with pytest.raises(InputError, match=complaint):
        embed_to_parquet(model, [DATA / "fsdd.tsv"], tmp_path / "e.parquet", **options)


def test_memory_does_not_grow_with_the_clip(pretrained_folder, speech, tmp_path):
    peaks = []
    for minutes in (2.5, 4):  # both have a window with context on either side, the largest kind
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", 48_000, 2, "PCM_16") as file:
            while file.frames < minutes * 60 * 48_000:
                file.write(np.stack([speech, speech], axis=1).repeat(3, axis=0))
        code = (
            "import resource, torch; torch.set_num_threads(1); import speechssl; "
            f"speechssl.load({str(pretrained_folder)!r}).embed({str(tmp_path / f'{minutes}.wav')!r}); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 17_000, peaks  # the longer clip is 34 MB more when decoded


def counting(monkeypatch, model, limit: int = 10**9) -> list[int]:
    """The numbers of clips in the batches that a model computes from here on; more than `limit` clips are an error."""
    counted, ask = [], partial(type(model).hidden_states, model)

    def hidden_states(waves, layers):
        counted.append(len(waves))
        if sum(counted) > limit:
            raise MemoryError
        return ask(waves, layers)

    monkeypatch.setattr(model, "hidden_states", hidden_states)
    return counted


def run_and_kill(model: Path, source: Path, out: Path, parts: int) -> Path:
    """Embed in a process of its own, killed when it has written some parts; gives their folder."""
    command = [sys.executable, "-m", "speechssl", "embed", str(model), str(source), "--out", str(out)]
    same = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # other threads round otherwise
    process = subprocess.Popen(command, cwd=ROOT, env=same, stderr=subprocess.DEVNULL)
    while len(written := list(out.parent.glob(f"{out.name}.*.parts/*.parquet"))) < parts:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    return written[0].parent


def test_after_a_kill_the_rest_is_computed_and_the_file_is_the_same(pretrained_folder, tmp_path, monkeypatch, capsys):
    rows = digits(1500)
    rows[700] |= {"path": tmp_path / "gone.wav"}
    source, model = write_table(tmp_path / "x.tsv", *rows), speechssl.load(pretrained_folder)
    folder = run_and_kill(pretrained_folder, source, tmp_path / "e.parquet", parts=3)
    done = sum(stop - first for first, stop in (map(int, file.stem.split("-")) for file in folder.glob("*.parquet")))
    counted = counting(monkeypatch, model)
    found = embed_to_parquet(model, [source], tmp_path / "e.parquet")
    assert 0 < done < 1500 and sum(counted) == 1500 - done - (done <= 700)
    assert f"{done} of 1500 clips are already done" in capsys.readouterr().err
    assert (found.rows, [Path(path).name for path, _ in found.rejected]) == (1499, ["gone.wav"])
    embed_to_parquet(model, [source], tmp_path / "whole.parquet")
    assert (tmp_path / "e.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


@pytest.fixture
def stopped(model, tmp_path, monkeypatch) -> Path:
    """A manifest of twelve clips whose embedding into e.parquet stopped after the first part of four."""
    for module in (stream, parts):
        monkeypatch.setattr(module, "SHARE", 4)
    rows = digits()
    for row in rows:
        row["path"] = shutil.copy(row["path"], tmp_path)
    source = write_table(tmp_path / "x.tsv", *rows)
    with monkeypatch.context() as patch:
        counting(patch, model, limit=4)
        with pytest.raises(MemoryError):
            embed_to_parquet(model, [source], tmp_path / "e.parquet")
    assert len(list(tmp_path.glob("*.parts/*.parquet"))) == 1
    return source


@pytest.mark.parametrize("damage", ["empty", "half", "a byte"])
def test_a_damaged_part_is_reported_and_computed_again(damage, model, stopped, tmp_path, monkeypatch, capsys):
    (part,) = tmp_path.glob("*.parts/*.parquet")
    content = bytearray(part.read_bytes())
    position = content.index(np.float32(pq.read_table(part)["vector"][0][0].as_py()).tobytes())
    content[position] ^= 1
    part.write_bytes({"empty": b"", "half": bytes(content[: len(content) // 2]), "a byte": bytes(content)}[damage])
    counted = counting(monkeypatch, model)
    embed_to_parquet(model, [stopped], tmp_path / "e.parquet")
    assert sum(counted) == 12
    reported = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert reported == [f"{tmp_path / 'e.parquet'}: 1 damaged parts are removed; their clips are embedded again"]
    embed_to_parquet(model, [stopped], tmp_path / "whole.parquet")
    assert (tmp_path / "e.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_audio_that_was_replaced_is_embedded_again(model, stopped, tmp_path, monkeypatch):
    """Another recording under the same name, of the same length: the row of the manifest stays the same."""
    first = Path(digits()[0]["path"]).name
    wave, rate = soundfile.read(tmp_path / first)
    soundfile.write(tmp_path / first, wave[::-1], rate)
    counted = counting(monkeypatch, model)
    embed_to_parquet(model, [stopped], tmp_path / "e.parquet")
    assert sum(counted) == 12
    vectors = pq.read_table(tmp_path / "e.parquet")["vector"].to_pylist()
    np.testing.assert_allclose(vectors[0], embed_clip(model, tmp_path / first), atol=1e-5)


def test_only_texts_are_dictionary_encoded(model, tmp_path):
    """A dictionary of floats took 1.45 GB for an hour of frames, and made the file larger."""
    embed_to_parquet(model, [write_table(tmp_path / "x.tsv", *digits())], tmp_path / "e.parquet", pool="none")
    group = pq.ParquetFile(tmp_path / "e.parquet").metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert "RLE_DICTIONARY" in encodings["speaker"]
    assert "RLE_DICTIONARY" not in encodings["vector.list.element"]


@pytest.mark.parametrize("change, expected", [("nothing", 8), ("option", 12), ("model", 12), ("rows", 11)])
def test_only_the_same_call_takes_up_what_was_left(change, expected, model, stopped, tmp_path, monkeypatch):
    source = stopped
    if change == "model":
        model, before = model.untrained(seed=2), model.source
        model.source = before
    if change == "rows":
        source = tmp_path / "y.tsv"
        source.write_text("".join(stopped.read_text().splitlines(keepends=True)[:-1]))
    counted = counting(monkeypatch, model)
    embed_to_parquet(model, [source], tmp_path / "e.parquet", pool="mean+max" if change == "option" else "model")
    assert sum(counted) == expected
    assert not list(tmp_path.glob("*.parts"))


def test_embed_needs_no_name_for_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(CLIP, "hello.flac")
    cli.main(["embed", "byol-s", "hello.flac"])
    assert "hello.parquet: 1 rows of 512 numbers" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["embed", "byol-s", "hello.flac"])
    assert "hello.parquet exists" in capsys.readouterr().err
