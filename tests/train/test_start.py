"""Where a run starts from: random weights, another model's, or its own last checkpoint with a few values changed."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from speechssl import cli
from speechssl.core import dist
from speechssl.score import report
from tests.conftest import FEW_DIGITS, TINY_MODEL, desk_with, refused

PRETRAIN = (
    TINY_MODEL
    + FEW_DIGITS
    + """\
[objective]
logit_spread = 4.0
[train]
steps = 2
log_every = 1
"""
)
FINETUNE = (
    FEW_DIGITS
    + """\
[optim]
lr = 1e-3
[train]
steps = 2
precision = "float32"
"""
)


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch) -> Path:
    """A working folder with two recipes and a manifest."""
    return desk_with(tmp_path, monkeypatch, pretrain=PRETRAIN, finetune=FINETUNE)


def run(out: str, *more: object, verb: str = "pretrain") -> Path:
    """Run a recipe on a few digits."""
    cli.main([str(word) for word in [verb, f"{verb}.toml", "--train", "x.tsv", "--out", out, *more]])
    return Path(out)


def log(run: Path) -> list[dict]:
    """The log without the clock."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "audio_seconds_per_second"} for line in lines]


def test_from_scratch_is_a_fresh_run(desk):
    """The sizes of --init and nothing else of it: also the codes are spread on the first batch as in any new run."""
    fresh = run("fresh")
    Path("pretrain.toml").write_text(PRETRAIN.replace("intermediate_size = 64", "intermediate_size = 96"))
    assert log(run("again", "--init", fresh, "--from-scratch")) == log(fresh)
    assert log(run("more", "--init", fresh))[0] != log(fresh)[0]


@pytest.mark.parametrize("fast, precision", [(False, "float32"), (True, "bf16")])
def test_the_machine_chooses_the_precision_and_the_run_keeps_it(fast, precision, monkeypatch):
    monkeypatch.setattr(dist, "bf16_is_fast", lambda device: fast)
    out = run("run")
    assert f'precision = "{precision}"' in (out / "recipe.toml").read_text()
    monkeypatch.setattr(dist, "bf16_is_fast", lambda device: not fast)
    run("run", "--resume", "--train.steps", "3", "--train.precision", "auto")
    assert f'precision = "{precision}"' in (out / "recipe.toml").read_text()


def test_bf16_is_never_fast_for_one_rank_only(monkeypatch):
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "all_sum_float", lambda own: float(own) + 0.0)  # the other rank finds it slow
    assert not dist.bf16_is_fast("cpu")


def test_everything_learns_from_scratch_and_only_what_was_pretrained_waits(pretrained_folder):
    parts = {
        "scratch": (["--from-scratch"], True),
        "pretrained": ([], False),
        "frozen": (["--from-scratch", "--objective.feature_grad", "0"], False),
    }
    for out, (flags, learns) in parts.items():
        starts, ends = (
            load_file(
                run(f"{out}{rate}", "--init", pretrained_folder, *flags, "--optim.lr", rate, verb="finetune")
                / "last"
                / "model.safetensors"
            )
            for rate in ("1e-30", "1e-3")
        )
        conv = "wav2vec2.feature_extractor.conv_layers.0.conv.weight"
        assert starts[conv].equal(ends[conv]) != learns, out
        assert not starts["lm_head.weight"].equal(ends["lm_head.weight"])
        layer = "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense.weight"
        assert starts[layer].equal(ends[layer]) == (out == "pretrained"), out


def test_a_resumed_run_records_what_changed(capsys):
    out = run("run")
    wanted = ["--train.steps", "4", "--train.log_every", "3", "--data.workers", "0"]
    run("run", "--resume", *wanted)
    text = (out / "recipe.toml").read_text()
    assert "\nsteps = 4\n" in text and "\nlog_every = 3\n" in text
    changed = {"train.steps": [2, 4], "train.log_every": [1, 3]}
    assert [line for line in log(out) if line["split"] == "resumed"] == [
        {"step": 2, "split": "resumed", "changed": changed}
    ]
    assert [line["step"] for line in log(out) if line["split"] == "train"] == [1, 2, 3, 4]
    run("run", "--resume", *wanted)
    assert sum(line["split"] == "resumed" for line in log(out)) == 1, "nothing changed this time"
    (curve,) = report.plot_curves({"run": out}, {"loss": "loss"}).axes[0].lines
    assert list(curve.get_xdata()) == [1, 2, 3, 4]


def test_a_resumed_run_remembers_its_init():
    """--init is for the first command; the checkpoint has what it began from, and a resumed run need not know."""
    first = run("first")
    out = run("second", "--init", first)
    run("second", "--resume", "--train.steps", "3")
    saved = json.loads((out / "last" / "config.json").read_text())["speechssl"]
    assert saved["init"] == "first" and saved["steps"] == 3


def test_a_resumed_run_refuses_another_recipe_and_stays_as_it_was(desk, capsys):
    before = {path: path.read_bytes() for path in run("run").rglob("*") if path.is_file()}
    call = ["pretrain", "pretrain.toml", "--train", "x.tsv", "--out", "run", "--resume", "--train.steps", "4"]
    said = refused(capsys, *call, "--optim.lr", "0.5", "--train.seed", "77")
    assert "optim.lr = 0.5, but the run has 0.0005 (run/recipe.toml)" in said
    Path("pretrain.toml").write_text(PRETRAIN.replace("batch_seconds = 3.0", "batch_seconds = 4.0"))
    assert "pretrain.toml has data.batch_seconds = 4.0, but the run has 3.0" in refused(capsys, *call)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
