"""1 process with 2 micro-batches per update = 2 processes with one each: the same losses and the same weights; and two
processes that are asked to stop at different moments stop together."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from speechssl import cli
from speechssl.train.folder import RunFolder
from tests.conftest import DATA, digits, write_table
from tests.train.test_resume import RECIPE, losses

FLOAT32 = ["--train.precision", "float32", "--train.steps", "6", "--train.log_every", "1", "--train.valid_every", "3"]
TWO_MICRO_BATCHES = ["--data.micro_seconds", "4.5"]


def train(folder: Path, out: str, processes: int) -> Path:
    """Six updates on one or several processes, steered by the phones of two speakers, which rank 0 alone measures."""
    phones = (DATA / "librispeech_abx.item").read_text().splitlines()
    (folder / "two.item").write_text("\n".join(line for line in phones if line.endswith((" 1688", " 2033"))) + "\n")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "speechssl", "pretrain", str(recipe), *FLOAT32, *TWO_MICRO_BATCHES]
    command += ["--train", str(DATA / "librispeech.tsv"), "--valid", str(DATA / "librispeech_test.tsv")]
    command += ["--train.abx", str(folder / "two.item"), "--train.abx_root", str(DATA / "librispeech_abx")]
    command += ["--out", str(folder / out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DATA.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / out


def test_one_process_equals_two(tmp_path):
    """With dropout, layer drop and the pooled diversity statistics on; float32, so that only rounding may differ."""
    alone, together = train(tmp_path, "one", 1), train(tmp_path, "two", 2)
    for ours, theirs in zip(losses(together), losses(alone), strict=True):
        for name, value in theirs.items():
            assert ours[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)), name
    first, second = (load_file(run / "last" / "model.safetensors") for run in (alone, together))
    for name, expected in first.items():
        # Adam's first steps divide tiny gradients by their own size, so rounding shows as a fraction of lr = 1e-3
        torch.testing.assert_close(second[name], expected, atol=2e-4, rtol=1e-3, msg=name)


@contextlib.contextmanager
def two_ranks(*words: object) -> Iterator[list[subprocess.Popen]]:
    """A verb on two processes that are started, and can be stopped, one by one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(DATA.parent)}
    command, ranks = [sys.executable, "-m", "speechssl", *map(str, words)], []
    try:
        for rank in ("0", "1"):
            own = os.environ | shared | {"OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank}
            ranks.append(subprocess.Popen(command, env=own, stderr=subprocess.DEVNULL))
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.wait()


@pytest.mark.parametrize("gap", [0.4, 2.0])
@pytest.mark.parametrize("first", [0, 1])
def test_a_signal_that_reaches_ranks_at_different_moments_stops_both_at_one_update(first, gap, tmp_path):
    """The gap is longer than an update; the run is saved, whichever rank gets the signal first, and can be continued."""
    run, recipe = RunFolder(path=tmp_path / "run"), tmp_path / "recipe.toml"
    recipe.write_text(
        RECIPE.replace("log_every = 4", "log_every = 1").replace("save_every = 10", "save_every = 1000000")
    )
    words = ["pretrain", recipe, "--train", DATA / "librispeech.tsv", "--out", run.path, "--data.workers", "0"]
    with two_ranks(*words, "--train.steps", "100000", "--train.precision", "float32") as ranks:
        deadline = time.monotonic() + 240
        while not (run.log.exists() and '"step": 3,' in run.log.read_text()):
            assert time.monotonic() < deadline and all(process.poll() is None for process in ranks), (
                "it never got that far"
            )
            time.sleep(0.02)
        ranks[first].send_signal(signal.SIGTERM)
        time.sleep(gap)
        ranks[1 - first].send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=60) for process in ranks]
    assert codes[first] == 130
    assert codes[1 - first] in (130, -signal.SIGTERM), "the late signal may meet a process that is about to end"
    (saved,) = run.checkpoints.iterdir()
    done = int(saved.name.removeprefix("step-"))
    cli.main([*map(str, words), "--resume", "--train.steps", str(done + 2)])
    steps = [line["step"] for line in losses(run.path) if line["split"] == "train"]
    assert steps == list(range(1, done + 3))


def verb(processes: int, *words: object) -> subprocess.CompletedProcess:
    """A verb on one or several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DATA.parent)}
    command = [sys.executable, *launcher, "-m", "speechssl", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_embed_what_one_embeds(pretrained_folder, tmp_path):
    rows = digits(300)
    rows[200] |= {"path": tmp_path / "gone.wav"}
    source = write_table(tmp_path / "x.tsv", *rows)
    for processes in (1, 2):
        done = verb(processes, "embed", pretrained_folder, source, "--out", tmp_path / f"{processes}.parquet")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("299 rows of 32 numbers") == done.stdout.count("gone.wav") == 1
    one, two = (pq.read_table(tmp_path / f"{processes}.parquet") for processes in (1, 2))
    assert one.drop_columns("vector") == two.drop_columns("vector")
    np.testing.assert_allclose(one["vector"].to_pylist(), two["vector"].to_pylist(), atol=1e-6)
    assert not list(tmp_path.glob("*.parts"))


def test_two_processes_transcribe_what_one_transcribes(ctc_folder, tmp_path):
    (tmp_path / "clips").mkdir()
    for row in digits(150):
        shutil.copy(row["path"], tmp_path / "clips")
    (tmp_path / "clips" / "zero.wav").touch()  # the last of the second process
    for processes in (1, 2):
        done = verb(processes, "transcribe", ctc_folder, tmp_path / "clips", "--out", tmp_path / str(processes))
        assert done.stderr.count("error: ") == done.stderr.count("zero.wav is an empty file") == 1
        assert done.returncode == (2 if processes == 1 else 1), done.stderr  # torchrun's own for a process that failed
    one, two = ({file.name: file.read_text() for file in (tmp_path / n).iterdir()} for n in "12")
    assert one == two and len(one) == 151
    assert (
        "name a folder for the transcripts with --out" in verb(2, "transcribe", ctc_folder, tmp_path / "clips").stderr
    )
