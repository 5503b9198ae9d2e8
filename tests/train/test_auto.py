"""The published settings of fine-tuning, and which of them `finetune auto` takes."""

import math
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.core.config import flat_values
from speechssl.interop import source
from speechssl.train.auto import Situation, choose, memory_of
from speechssl.train.recipe import OURS, parse_recipe
from tests.conftest import desk_with, refused

FAIRSEQ = {  # max_update, lr, mask_prob, mask_channel_prob, freeze_finetune_updates, layerdrop, max_tokens, GPUs, update_freq
    "base-10m": (13000, 0.00005, 0.65, 0.25, 10000, 0.1, 3200000, 2, 4),
    "base-1h": (13000, 0.00005, 0.65, 0.25, 10000, 0.1, 3200000, 2, 4),
    "base-10h": (20000, 0.00005, 0.65, 0.5, 10000, 0.05, 3200000, 2, 4),
    "base-100h": (80000, 0.00003, 0.65, 0.5, 0, 0.1, 3200000, 2, 4),
    "base-960h": (320000, 0.00001, 0.5, 0.1, 0, 0.1, 3200000, 8, 1),
    "large-10m": (13000, 0.0001, 0.65, 0.25, 10000, 0.1, 1280000, 4, 5),
    "large-1h": (13000, 0.0003, 0.75, 0.25, 10000, 0.1, 1280000, 4, 5),
    "large-10h": (20000, 0.0001, 0.75, 0.25, 10000, 0.1, 1280000, 4, 5),
    "large-100h": (80000, 0.00003, 0.5, 0.5, 10000, 0.1, 1280000, 4, 5),
    "large-960h": (320000, 0.00003, 0.5, 0.25, 10000, 0.1, 1280000, 24, 1),
}
COMMON = {  # the same in all ten files, or fairseq's default where these say nothing
    "optim.betas": (0.9, 0.98),
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.0,
    "optim.schedule": "tri-stage",
    "optim.warmup": 0.1,
    "optim.hold": 0.4,
    "objective.mask_length": 10,
    "objective.channel_length": 64,
    "objective.feature_grad": 0.0,
    "model.activation_dropout": 0.1,
    "model.hidden_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "model.final_dropout": 0.0,
    "model.feat_proj_dropout": 0.0,
}
SMALL, BASE, LARGE, HUGE = (6, 256, 5_300_000), (12, 768, 95_000_000), (24, 1024, 317_000_000), (48, 1280, 962_000_000)


@pytest.mark.parametrize("name", FAIRSEQ)
def test_named_recipes_are_the_published_ones(name):
    steps, lr, mask, channels, freeze, layerdrop, tokens, gpus, accumulated = FAIRSEQ[name]
    values = flat_values(parse_recipe("finetune", Path(name)))
    assert values["data.batch_seconds"] == tokens * gpus * accumulated / 16_000
    assert (values["train.steps"], values["optim.lr"]) == (steps, lr)
    assert (values["objective.mask_prob"], values["objective.channel_prob"]) == (mask, channels)
    assert (values["objective.freeze_steps"], values["model.layerdrop"]) == (freeze, layerdrop)
    assert {key: values[key] for key in COMMON} == COMMON


def test_names_are_overridden_as_files_are_and_random_weights_learn_as_a_whole():
    recipe = parse_recipe("finetune", Path("base-10m"), ["--train.steps", "7", "--model.layerdrop", "0"], scratch=True)
    assert (recipe.train.steps, recipe.model.layerdrop) == (7, 0.0)
    assert (recipe.objective.freeze_steps, recipe.objective.feature_grad, recipe.objective.channel_prob) == (
        0,
        1.0,
        0.25,
    )
    for name in OURS:
        assert parse_recipe("finetune", Path(name)).data.batch_seconds < 12


@pytest.mark.parametrize(
    "hours, size, name",
    [
        (9 / 60, BASE, "base-10m"),
        (0.6, BASE, "base-1h"),
        (3.5, BASE, "base-10h"),
        (100, LARGE, "large-100h"),
        (600, LARGE, "large-960h"),
        (12, HUGE, "large-10h"),
        (2, SMALL, "small-sentences"),
    ],
)
def test_the_nearest_hours_of_the_nearest_size_are_chosen(hours, size, name):
    assert choose(Situation(hours, 9.0, *size, memory=80.0))[0] == name


def test_isolated_words_have_recipes_of_their_own_for_small_only():
    assert choose(Situation(0.05, 0.4, *SMALL, memory=4.0)) == ("small-digits", {})
    assert choose(Situation(1.5, 0.9, *SMALL, memory=4.0)) == ("small-words", {})
    assert choose(Situation(1.5, 0.9, *BASE, memory=80.0))[0] == "base-1h"


def test_more_hours_than_a_recipe_of_small_hears_lengthen_it():
    assert choose(Situation(1.0, 9.0, *SMALL, memory=4.0))[1] == {}
    assert choose(Situation(100.0, 9.0, *SMALL, memory=4.0))[1] == {"train.steps": math.ceil(2 * 360_000 / 8)}


def test_micro_batches_follow_the_memory():
    """Half the published ones in half the memory; recomputing where not a sentence has room."""
    whole, half, little = (choose(Situation(1, 9.0, *LARGE, memory=m))[1] for m in (32.0, 16.0, 8.0))
    assert whole["data.micro_seconds"] == pytest.approx(80, rel=0.2) and "train.gradient_checkpointing" not in whole
    assert 20 < half["data.micro_seconds"] < whole["data.micro_seconds"] / 2
    assert little == {"data.micro_seconds": 20.0, "train.gradient_checkpointing": True}
    assert choose(Situation(1, 9.0, *BASE, memory=32.0))[1]["data.micro_seconds"] == pytest.approx(200, rel=0.2)
    assert 0 < memory_of("cpu") < 100_000


def test_auto_says_what_it_takes_records_it_and_resumes(pretrained_folder, tmp_path, monkeypatch, capsys):
    desk_with(tmp_path, monkeypatch)
    call = [
        "finetune",
        "auto",
        "--init",
        str(pretrained_folder),
        "--train",
        "x.tsv",
        "--out",
        "run",
        "--data.workers",
        "0",
    ]
    cli.main([*call, "--train.steps", "1", "--train.precision", "float32"])
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("auto: "))
    assert "2 layers of width 32: recipe small-digits, 1 updates of 6 s, 0.00 h to hear" in said, said
    text = Path("run/recipe.toml").read_text()
    assert "flat_start = 40\n" in text and "batch_seconds = 11.0\n" in text and "steps = 1\n" in text
    cli.main([*call, "--train.steps", "2", "--resume"])
    assert "steps = 2\n" in Path("run/recipe.toml").read_text()
    assert "auto: " not in capsys.readouterr().err
    assert "run holds another run" in refused(capsys, *call)
    assert source.read("run").source


def test_a_name_may_be_asked_for_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["finetune", "large-1h", "--help"])
    shown = capsys.readouterr().out
    assert "values in large-1h" in shown and "--optim.lr 0.0003" in shown
