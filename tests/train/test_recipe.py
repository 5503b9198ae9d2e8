"""The recipe of a new run, and what a resumed one may change of it."""

from pathlib import Path

import pytest

from speechssl.core.config import dump_toml
from speechssl.core.errors import InputError
from speechssl.objectives import OBJECTIVES
from speechssl.objectives.recipe import Recipe
from speechssl.train.recipe import MAY_CHANGE, parse_recipe

STATED = """\
[model]
hidden_size = 96
layerdrop = 0.1
[optim]
lr = 1e-3
[train]
steps = 60
precision = "float32"
"""
OLD_CTC = """\
[model]
feat_proj_dropout = 0.0
hidden_dropout = 0.1
attention_dropout = 0.0
activation_dropout = 0.1
final_dropout = 0.0
layerdrop = 0.05

[objective]
mask_prob = 0.65
mask_length = 10
channel_prob = 0.5
channel_length = 64
feature_grad = 0.0
freeze_steps = 10000

[text]
normaliser = "basic"
vocab = ""

[data]
batch_seconds = 3.0
micro_seconds = 3.0
crop_seconds = 0.0
min_seconds = 0.1
workers = 0

[optim]
lr = 5e-05
betas = [0.9, 0.98]
eps = 1e-08
weight_decay = 0.0
schedule = "tri-stage"
warmup = 0.1
hold = 0.4
power = 1.0
head_scale = 1.0
clip_norm = 0.0

[train]
steps = 4
seed = 1
device = "cpu"
precision = "float32"
gradient_checkpointing = false
log_every = 1
valid_every = 1000
save_every = 2
tensorboard = false
stop_on_collapse = true
"""  # as written before recipes of all objectives had a `kind`


def started(folder: Path, *overrides: str) -> tuple[Path, Path]:
    """A recipe file, and the folder of a run that was started with it and `overrides`."""
    path, run = folder / "given.toml", folder / "run"
    path.write_text(STATED)
    run.mkdir()
    (run / "recipe.toml").write_text(dump_toml(parse_recipe("pretrain", path, overrides)))
    return path, run


def resumed(path: Path, run: Path, *overrides: str, **options) -> Recipe:
    """The recipe of the run when it is resumed so."""
    return parse_recipe("pretrain", path, overrides, run=run, **options)


def test_what_a_resumed_run_is_not_given_comes_from_its_own_recipe(tmp_path):
    path, run = started(tmp_path, "--optim.weight_decay", "0.5", "--data.batch_seconds", "40")
    path.write_text("")
    recipe = resumed(path, run)
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.data.batch_seconds) == (1e-3, 0.5, 40.0)
    assert (recipe.model.hidden_size, recipe.train.steps) == (96, 60)


def test_the_same_command_resumes_the_run(tmp_path):
    """With flags that override its file too, of which a resumed run may change one and not the other."""
    flags = ("--optim.lr", "5e-4", "--train.steps", "20", "--model.num_hidden_layers", "3")
    path, run = started(tmp_path, *flags)
    recipe = resumed(path, run, *flags)
    assert (recipe.optim.lr, recipe.train.steps, recipe.model.num_hidden_layers) == (5e-4, 20, 3)


@pytest.mark.parametrize(
    "key, value, complaint",
    [
        ("optim.lr", "0.5", "optim.lr = 0.5, but the run has 0.001"),
        ("train.seed", "77", "train.seed = 77, but the run has 1"),
        ("data.batch_seconds", "3", "data.batch_seconds = 3.0, but the run has 5600.0"),
        ("optim.betas", "0.9,0.9", "optim.betas = (0.9, 0.9), but the run has (0.9, 0.98)"),
        ("model.hidden_size", "48", "model.hidden_size = 48, but the run has 96"),
        ("train.precision", "bf16", "train.precision = 'bf16', but the run has 'float32'"),
    ],
)
def test_changes_that_would_make_it_another_run_are_refused(key, value, complaint, tmp_path):
    path, run = started(tmp_path)
    with pytest.raises(InputError) as error:
        resumed(path, run, f"--{key}", value)
    said = str(error.value)
    assert said.startswith(f"the command line has {complaint}") and str(run / "recipe.toml") in said
    assert "\n" not in said


def test_an_edited_file_is_refused_too(tmp_path):
    path, run = started(tmp_path)
    path.write_text(STATED.replace("lr = 1e-3", "lr = 2e-3"))
    with pytest.raises(
        InputError, match=r"given\.toml has optim\.lr = 0\.002, but the run has 0\.001 .*run/recipe\.toml"
    ):
        resumed(path, run)
    assert resumed(path, run, "--optim.lr", "1e-3").optim.lr == 1e-3  # the command line has the last word


def test_what_may_change(tmp_path):
    path, run = started(tmp_path)
    flags = {
        "train.steps": ("20", 20),
        "train.device": ("cpu", "cpu"),
        "train.log_every": ("3", 3),
        "train.valid_every": ("7", 7),
        "train.save_every": ("5", 5),
        "train.tensorboard": ("true", True),
        "train.stop_on_collapse": ("false", False),
        "train.gradient_checkpointing": ("true", True),
        "data.workers": ("0", 0),
        "data.micro_seconds": ("10", 10.0),
    }
    assert set(flags) == set(MAY_CHANGE)
    recipe = resumed(path, run, *(word for key, (value, _) in flags.items() for word in (f"--{key}", value)))
    for key, (_, value) in flags.items():
        section, name = key.split(".")
        assert getattr(getattr(recipe, section), name) == value, key


def test_auto_keeps_the_precision_of_the_run_and_asks_for_a_device_anew(tmp_path):
    path, run = started(tmp_path, "--train.device", "cuda:0")
    path.write_text(STATED.replace('"float32"', '"auto"'))
    recipe = resumed(path, run)
    assert (recipe.train.precision, recipe.train.device) == ("float32", "auto")


def test_sizes_that_came_from_another_model_are_kept(tmp_path):
    path, run = started(tmp_path, "--model.hidden_size", "48")
    assert resumed(path, run, init=True).model.hidden_size == 48
    with pytest.raises(InputError, match=r"layerdrop = 0\.2, but the run has 0\.1"):
        resumed(path, run, "--model.layerdrop", "0.2", init=True)


def test_another_objective_is_refused(tmp_path):
    run = started(tmp_path)[1]
    (tmp_path / "byol.toml").write_text('kind = "byol-s"\n[model]\nwidth = 16\n')
    with pytest.raises(InputError, match=r"byol\.toml has kind = 'byol-s', but the run has 'wav2vec2'"):
        resumed(tmp_path / "byol.toml", run)
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(InputError, match=r"kind = 'wav2vec2' must be one of ctc, classify for `speechssl finetune`"):
        parse_recipe("finetune", tmp_path / "empty.toml", run=run)


def test_runs_of_earlier_versions_resume(tmp_path):
    """Their CTC recipes have no `kind`, those of wav2vec 2.0 the keys of a path that is no more."""
    (tmp_path / "recipe.toml").write_text(OLD_CTC)
    recipe = parse_recipe("finetune", tmp_path / "recipe.toml", ["--train.steps", "9"], run=tmp_path)
    assert (recipe.kind, recipe.train.steps, recipe.optim.schedule) == ("ctc", 9, "tri-stage")
    old = dump_toml(OBJECTIVES["wav2vec2"].Recipe()).replace(
        "mask_length = 10\n", "mask_length = 10\nutterance_weight = 0.0\nutterance_tau = 0.9\n", 1
    )
    (tmp_path / "recipe.toml").write_text(old)
    (tmp_path / "empty.toml").write_text("")
    assert resumed(tmp_path / "empty.toml", tmp_path) == parse_recipe("pretrain", tmp_path / "recipe.toml")
    (tmp_path / "recipe.toml").write_text(old.replace("utterance_weight = 0.0", "utterance_weight = 1.0"))
    with pytest.raises(InputError, match=r"there is no key objective\.utterance_weight"):
        resumed(tmp_path / "empty.toml", tmp_path)


def test_random_weights_learn_as_a_whole_unless_the_user_says_otherwise(tmp_path):
    """`finetune --from-scratch` is the baseline: convolutions that nobody trained must not stay as they are."""
    path = tmp_path / "given.toml"
    for text, flags, scratch, expected in (
        ("", [], False, (0.0, 10_000)),
        ("", [], True, (1.0, 0)),
        ("[objective]\nfeature_grad = 0.5\n", [], True, (0.5, 0)),
        ("[objective]\nfeature_grad = 0.5\n", ["--objective.freeze_steps", "30"], True, (0.5, 30)),
    ):
        path.write_text(text)
        config = parse_recipe("finetune", path, flags, scratch=scratch).objective
        assert (config.feature_grad, config.freeze_steps) == expected
