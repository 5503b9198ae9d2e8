"""BYOL-S in the one loop: resumed = uninterrupted bit for bit, two processes = one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.data.prepare import listed
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.train.recipe import parse_recipe
from speechssl.train.run import Paths, train
from tests.conftest import CLIP, DATA, digits, write_table

RECIPE = """
kind = "byol-s"
[model]
width = 16
channels = 4
dropout = 0.0
[objective]
hidden = 16
projection = 8
bank = 12
hybrid = "none"
[data]
batch_seconds = 3.0
crop_seconds = 0.3
workers = 0
[optim]
lr = 1e-3
[train]
steps = 6
precision = "float32"
log_every = 1
save_every = 3
"""


def lines(run: Path) -> list[dict]:
    """The log without the clock."""
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k != "audio_seconds_per_second"}
        for line in found
        if line["split"] != "resumed"
    ]


def test_resumed_equals_uninterrupted(tmp_path):
    """Weights, target network, memory bank, statistics, hybrid head and optimiser; with dropout."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("dropout = 0.0", "dropout = 0.3").replace('"none"', '"librosa"'))
    rows: dict = {"train": [DATA / "fsdd.tsv"], "where": ["split=train"]}  # no validation, which half a run has earlier
    recipe, half = (parse_recipe("pretrain", path, ["--train.steps", steps]) for steps in ("6", "3"))
    train(recipe, Paths(**rows, out=tmp_path / "whole"))
    train(half, Paths(**rows, out=tmp_path / "parts"))
    torch.manual_seed(99)
    train(recipe, Paths(**rows, out=tmp_path / "parts", resume=True))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    states = [torch.load(tmp_path / run / "last" / "state.pt", weights_only=True) for run in ("whole", "parts")]
    own = states[0]["objective"]
    assert {"bank_MFT", "bank_seen", "projector.0.weight", "target.0.features.1.running_mean"} <= set(own)
    assert all(value.equal(states[1]["objective"][name]) for name, value in own.items())
    first, second = (load_file(tmp_path / run / "last" / "model.safetensors") for run in ("whole", "parts"))
    assert all(value.equal(second[name]) for name, value in first.items())


@pytest.mark.parametrize("old, new", [("bank_seen", None), ("projector.0.weight", "head.0.weight")])
def test_a_state_that_lacks_a_part_of_the_objective_is_refused(old, new, tmp_path):
    """A predictor or a bank that began anew would go unnoticed."""
    path, rows = tmp_path / "recipe.toml", [DATA / "fsdd.tsv"]
    path.write_text(RECIPE)
    train(parse_recipe("pretrain", path, ["--train.steps", "1"]), Paths(train=rows, out=tmp_path / "run"))
    file = tmp_path / "run" / "last" / "state.pt"
    state = torch.load(file, weights_only=True)
    value = state["objective"].pop(old)
    if new:
        state["objective"][new] = value
    torch.save(state, file)
    with pytest.raises(
        InputError, match=rf"step-00000001 cannot be continued: .* differ in {old}{f', {new}' if new else ''};"
    ):
        train(parse_recipe("pretrain", path), Paths(train=rows, out=tmp_path / "run", resume=True))


def test_short_clips_are_left_out_of_validation_too(tmp_path, capsys):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    clips = digits()
    valid = write_table(tmp_path / "valid.tsv", *clips[:2], clips[2] | {"duration": 0.19})
    recipe = parse_recipe("pretrain", path, ["--train.steps", "1"])
    train(recipe, Paths(train=[DATA / "fsdd.tsv"], valid=[valid], out=tmp_path / "run"))
    assert "validation data: 1 of 3 utterances are under 0.2 s and left out" in capsys.readouterr().err


def test_two_processes_equal_one(tmp_path):
    """Batch norms, post-norm and memory bank over both: the same losses and gradients. The rate is small, because ten crops
    of 0.3 s make steps so steep that rounding would grow."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("lr = 1e-3", "lr = 1e-6"))
    for count in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"] if count > 1 else []
        command = [sys.executable, *launcher, "-m", "speechssl", "pretrain", str(path)]
        command += ["--train", str(DATA / "librispeech.tsv"), "--out", str(tmp_path / str(count))]
        command += [
            "--valid",
            str(DATA / "kerstin.tsv"),
            "--train.valid_every",
            "3",
        ]  # its micro-batches: an odd number
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DATA.parent)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
    for ours, theirs in zip(lines(tmp_path / "2"), lines(tmp_path / "1"), strict=True):
        for name, value in theirs.items():
            assert ours[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-4)), name
    one, two = (torch.load(tmp_path / run / "last" / "state.pt", weights_only=True) for run in ("1", "2"))
    for name, value in one["objective"].items():
        torch.testing.assert_close(two["objective"][name], value, atol=1e-3, rtol=1e-3, msg=name)
    for number, moments in one["optimizer"]["state"].items():  # averaged gradients
        scale = float(moments["exp_avg"].abs().max())
        theirs = two["optimizer"]["state"][number]["exp_avg"]
        torch.testing.assert_close(theirs, moments["exp_avg"], atol=3e-3 * scale + 1e-4, rtol=1e-3, msg=str(number))


def test_continuing_keeps_the_normalisation_that_the_weights_know(tmp_path):
    """Also with a hybrid target, whose own statistics come from the first update."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace('"none"', '"librosa"').replace("steps = 6", "steps = 1"))
    recipe, rows = parse_recipe("pretrain", path), [DATA / "fsdd.tsv"]
    train(recipe, Paths(train=rows, out=tmp_path / "fresh"))
    start = load_file(tmp_path / "fresh" / "last" / "model.safetensors")
    train(recipe, Paths(train=[DATA / "librispeech.tsv"], init=tmp_path / "fresh", out=tmp_path / "more"))
    found = load_file(tmp_path / "more" / "last" / "model.safetensors")
    assert found["mel_stats"].equal(start["mel_stats"])
    targets = [
        torch.load(tmp_path / run / "last" / "state.pt", weights_only=True)["objective"]["hybrid_stats_2K"]
        for run in ("fresh", "more")
    ]
    assert not targets[0].equal(targets[1])


def test_a_folder_is_listed_first(tmp_path):
    """Long recordings in rows of 30 s; a resumed run takes the list that it began with."""
    (tmp_path / "calls").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / "calls" / f"{number}.wav", np.resize(audio.load(CLIP), 50 * 16000), 16000)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    command = [
        "pretrain",
        str(tmp_path / "recipe.toml"),
        "--train",
        str(tmp_path / "calls"),
        "--out",
        str(tmp_path / "run"),
    ]
    cli.main([*command, "--train.steps", "2"])
    listed = read_manifest(tmp_path / "run.train.tsv")
    assert (
        sum(listed.durations) == pytest.approx(100, abs=0.1) and 4 <= len(listed) <= 7 and max(listed.durations) <= 30
    )
    (tmp_path / "calls" / "1.wav").unlink()
    with pytest.raises(SystemExit):
        cli.main(command)  # without --resume: refused before the list is made anew
    with pytest.raises(SystemExit):
        cli.main([*command, "--train.steps", "3", "--resume"])
    assert len(read_manifest(tmp_path / "run.train.tsv")) == len(listed)


def test_one_clip_is_too_few(tmp_path):
    (tmp_path / "one.tsv").write_text(f"path\tduration\n{CLIP}\t2\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    with pytest.raises(InputError, match=r"there is only one; cut long recordings into many rows"):
        train(
            parse_recipe("pretrain", tmp_path / "recipe.toml"),
            Paths(train=[tmp_path / "one.tsv"], out=tmp_path / "run"),
        )


def test_folders_that_are_not_listed_for_the_user(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        InputError,
        match=r"a is a folder beside other sources; prepare it first: `speechssl prepare .*, then --train a.tsv",
    ):
        listed([tmp_path / "a", tmp_path / "b"], tmp_path / "run", "train", False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"prepare it once for all processes: .* --max-seconds 30`, then --valid "):
        listed([tmp_path / "a"], tmp_path / "run", "valid", False)
    (tmp_path / "run.valid.tsv").touch()
    assert listed([tmp_path / "a"], tmp_path / "run", "valid", True) == [tmp_path / "run.valid.tsv"]
