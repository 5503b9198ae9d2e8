"""Tables and folders in every verb that takes audio: other people's files, conditions, and the column `split`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import cli
from speechssl.data.codes import FrameCodes
from speechssl.data.tables import read_manifest
from tests.conftest import CLIP, DATA, desk_with, digits, refused
from tests.test_bad_input import FINETUNE
from tests.train.test_folder import RECIPE as PRETRAIN

SPLITS = ["train", "dev", "test", "train"]


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch) -> Path:
    """A working folder with recipes, twelve digits in clips/, and other people's tables of them without durations."""
    desk_with(tmp_path, monkeypatch, pretrain=PRETRAIN, finetune=FINETUNE)
    Path("clips").mkdir()
    rows = []
    for n, row in enumerate(digits()):
        shutil.copy(row["path"], f"clips/{n}.flac")
        rows.append(
            {"file_name": f"clips/{n}.flac", "transcription": row["text"], "split": SPLITS[n % 4], "part": str(n % 2)}
        )
        Path(f"clips/{n}.txt").write_text(str(row["text"]))
    Path("metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    Path("metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(capsys, *argv: object) -> tuple[str, str]:
    """What a verb prints to stdout and to stderr."""
    capsys.readouterr()
    cli.main([str(word) for word in argv])
    said = capsys.readouterr()
    return said.out, said.err


@pytest.mark.parametrize("source", ["clips", "metadata.csv", "metadata.jsonl"])
def test_finetune_takes_folders_and_tables_without_durations(source, ctc_folder, capsys):
    run(capsys, "finetune", "finetune.toml", "--init", ctc_folder, "--train", source, "--out", "run")
    assert Path("run/last/model.safetensors").exists()
    rows = read_manifest("run.train.tsv")
    assert len(rows) == 12 and not np.isnan(rows.durations).any() and "seven" in rows.column("text")


def test_a_run_obeys_the_column_split_and_says_so(ctc_folder, capsys):
    call = ["--train", "metadata.csv", "--out", "run"]
    _, said = run(capsys, "finetune", "finetune.toml", "--init", ctc_folder, *call)
    assert (
        "train: 12 rows, by their column split 6 train, 3 dev, 3 test: 6 are trained on, 3 marked dev validate, 3 are left out"
        in said
    )
    assert "run/best" in said  # there was a validation
    _, said = run(
        capsys, "finetune", "finetune.toml", "--init", ctc_folder, *call[:-1], "a", "--where", "split=train", "part=1"
    )
    assert "left out" not in said and "best" not in said
    call = ["pretrain", "pretrain.toml", "--train", "metadata.csv", "--out", "b"]
    assert "no row is marked train in the column split (3 test)" in refused(capsys, *call, "--where", "split=test")
    assert not Path("b").exists()


def test_evaluate_takes_tables_and_folders_and_says_which_rows_it_scores(ctc_folder, capsys):
    out, said = run(capsys, "evaluate", ctc_folder, "metadata.csv")
    assert "all 12 rows, by their column split 6 train, 3 dev, 3 test; --where split=test takes some" in said
    assert "12 utterances" in out
    out, said = run(capsys, "evaluate", ctc_folder, "metadata.csv", "--where", "split=test,part=0", "split=dev")
    assert "column split" not in said and "3 utterances" in out
    assert "12 utterances" in run(capsys, "evaluate", ctc_folder, "clips")[0]
    assert "--where test: a condition is COLUMN=VALUE" in refused(
        capsys, "evaluate", ctc_folder, "clips", "--where", "test"
    )


def test_transcribe_takes_the_rows_of_tables(ctc_folder, capsys):
    soundfile.write("call.wav", np.tile(soundfile.read(CLIP)[0], 3), 16_000)
    Path("call.csv").write_text("id,path,start,end,speaker\n/../a,call.wav,0,2.045,x\nb,call.wav,2.045,4.09,y\n")
    out, _ = run(capsys, "transcribe", ctc_folder, "call.csv")
    first, second = out.splitlines()
    assert second == first.replace("call.wav:", "call.wav from 2.045 s:")
    out, _ = run(capsys, "transcribe", ctc_folder, "call.csv", "--where", "speaker=y", "--format", "json")
    assert json.loads(out)["text"] == first.partition(": ")[2]
    run(capsys, "transcribe", ctc_folder, "call.csv", "--out", "texts")
    assert {path.relative_to("texts").as_posix() for path in Path("texts").rglob("*.txt")} == {"a.txt", "b.txt"}


def test_where_in_cluster_and_embed(ctc_folder, capsys):
    how = ["--where", "part=1", "split=dev"]
    run(capsys, "cluster", "mfcc", "metadata.csv", "--out", "codes.parquet", "--clusters", 4, *how)
    assert len(FrameCodes(Path("codes.parquet")).rows) == 3
    out, _ = run(capsys, "embed", ctc_folder, "metadata.csv", "--out", "e.parquet", *how)
    assert "3 rows" in out


def test_embed_leaves_the_list_of_prepare_alone(ctc_folder, capsys):
    Path("x.csv").write_text(f"path\n{CLIP}\nclips/none.flac\n")
    run(capsys, "prepare", "x.csv", "--out", "x.tsv")
    run(capsys, "embed", ctc_folder, "x.tsv")
    assert "clips/none.flac\tmissing" in Path("x.rejected.tsv").read_text()
    run(capsys, "embed", ctc_folder, "x.csv", "--out", "x.parquet")
    assert "clips/none.flac\tmissing" in Path("x.rejected.tsv").read_text()
    assert "none.flac\t" in Path("x.parquet.rejected.tsv").read_text()


def test_the_audio_of_a_table_without_durations_is_not_prepared_by_each_process(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused(capsys, "pretrain", "pretrain.toml", "--train", "metadata.csv", "--out", "run")
    assert "metadata.csv is a table without durations; prepare it once for all processes" in said
    assert len(read_manifest(DATA / "fsdd.tsv")) == 1500  # ours has durations
