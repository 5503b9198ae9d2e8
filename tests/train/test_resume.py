"""Stop at any moment and continue: the losses are those of the uninterrupted run, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from speechssl import cli
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train.folder import RunFolder
from tests.conftest import DATA, TINY_MODEL

RECIPE = (
    TINY_MODEL
    + """\
layerdrop = 0.3
[objective]
logit_spread = 4.0
[data]
batch_seconds = 6.0
micro_seconds = 3.0
crop_seconds = 2.0
min_seconds = 0.5
[optim]
lr = 1e-3
[train]
steps = 60
log_every = 4
valid_every = 20
save_every = 10
"""
)


def command(folder: Path, out: str, *more: str) -> list[str]:
    """A pretraining command on the clips in data/, with dropout, layer drop and accumulation."""
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    train, valid = DATA / "librispeech.tsv", DATA / "librispeech_test.tsv"
    arguments = ["pretrain", recipe, "--train", train, "--valid", valid, "--out", folder / out, *more]
    return [sys.executable, "-m", "speechssl", *map(str, arguments)]


def run(folder: Path, out: str, *more: str) -> subprocess.CompletedProcess:
    """Run to the end."""
    return subprocess.run(command(folder, out, *more), env=environment(), capture_output=True, text=True, timeout=300)


def environment() -> dict[str, str]:
    """One thread, this checkout."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DATA.parent)}


def losses(run_folder: Path) -> list[dict]:
    """The log without the clock."""
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "audio_seconds_per_second"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize(
    "kind, updates", [(signal.SIGKILL, 4), (signal.SIGKILL, 27), (signal.SIGTERM, 22), (signal.SIGINT, 5)]
)
def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path, kind, updates):
    process = subprocess.Popen(
        command(tmp_path, "run"), env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(tmp_path / "run" / "log.jsonl", updates, process)
    if kind == signal.SIGKILL:
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    process.communicate(timeout=120)
    assert len(losses(tmp_path / "run")) < len(losses(whole)), "the run had ended before it was stopped"
    done = run(tmp_path, "run", "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == losses(whole)
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (tmp_path / "run", whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def wait_for(log: Path, updates: int, process: subprocess.Popen) -> None:
    """Until the log tells of so many updates."""
    for _ in range(3000):
        if log.exists() and any(f'"step": {n},' in log.read_text() for n in range(updates - updates % 4, 64, 4)):
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    raise AssertionError("the run never got that far")


def test_a_signal_while_the_books_are_kept_loses_nothing(tmp_path, monkeypatch):
    """It strikes after update 4, when it is too late for that update's checkpoint: update 5 ends the run, saved."""

    def strike(_objective: Wav2Vec2, line: dict) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Wav2Vec2, "verdict", strike)
    with pytest.raises(SystemExit) as stop:
        cli.main(command(tmp_path, "run", "--data.workers", "0")[3:])
    assert stop.value.code == 130
    assert RunFolder(path=tmp_path / "run").latest() == tmp_path / "run" / "checkpoints" / "step-00000005"


def test_a_run_is_not_overwritten(whole):
    done = run(whole.parent, "run")
    assert done.returncode == 2
    assert "holds another run" in done.stderr
    assert "--resume" in done.stderr


def test_resuming_with_other_data_is_refused(whole, tmp_path):
    arguments = command(whole.parent, "run", "--resume", "--train.steps", "70")
    arguments[arguments.index("--train") + 1] = str(DATA / "fsdd.tsv")
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "manifest is not the one" in done.stderr
