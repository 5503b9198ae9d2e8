"""1 process with 2 micro-batches per update = 2 processes with one each: the same losses and the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import DATA
from tests.train.test_resume import RECIPE, losses

FLOAT32 = ["--train.precision", "float32", "--train.steps", "6", "--train.log_every", "1", "--train.valid_every", "3"]
TWO_MICRO_BATCHES = ["--data.micro_seconds", "4.5"]


def train(folder: Path, out: str, processes: int) -> Path:
    """Six updates on one or several processes."""
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "speechssl", "pretrain", str(recipe), *FLOAT32, *TWO_MICRO_BATCHES]
    command += ["--train", str(DATA / "librispeech.tsv"), "--valid", str(DATA / "librispeech_test.tsv")]
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
