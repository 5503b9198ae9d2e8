"""What every objective promises, whatever it optimises: a new row of OBJECTIVES is tested here without a line of its own.

A recipe is made tiny by TINY, of which each takes the keys that it has. Only an objective that needs other values gets a row in
OWN, and one that cannot keep a promise a row with the reason in EXEMPT.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import speechssl
from speechssl import cli
from speechssl.core import dist
from speechssl.core.config import apply, flat_values
from speechssl.core.errors import InputError
from speechssl.core.packed import Movable
from speechssl.data.loader import Item, MicroBatches
from speechssl.data.tables import read_manifest
from speechssl.interop import source
from speechssl.models import families
from speechssl.objectives import OBJECTIVES, Objective
from speechssl.objectives.protocol import TRAINING
from speechssl.objectives.recipe import Recipe
from speechssl.train.recipe import parse_recipe
from speechssl.train.run import Paths, train
from speechssl.use.cluster import cluster
from tests.conftest import DATA, ROOT, write_table

TINY: dict[str, Any] = {
    "model.conv_dim": (8,) * 7,
    "model.hidden_size": 16,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 32,
    "model.num_conv_pos_embeddings": 8,
    "model.num_conv_pos_embedding_groups": 2,
    "model.num_codevectors_per_group": 8,
    "model.codevector_dim": 8,
    "model.proj_codevector_dim": 8,
    "model.width": 16,
    "model.channels": 4,
    "data.batch_seconds": 4.0,
    "data.micro_seconds": 2.2,
    "data.crop_seconds": 0.4,
    "data.min_seconds": 0.1,
    "data.workers": 0,
    "optim.lr": 2e-3,
    "train.steps": 30,
    "train.precision": "float32",
    "train.log_every": 5,
    "train.save_every": 24,
}
OWN: dict[str, dict[str, Any]] = {
    "hubert": {"objective.codes": "codes.parquet", "objective.code_dim": 8, "objective.feature_grad": 1.0},
    "data2vec": {"objective.top_layers": 2},
    "dinosr": {"objective.top_layers": 2, "objective.codes": 8},
    "byol-s": {"objective.hidden": 16, "objective.projection": 8, "objective.bank": 8},
    "ctc": {"data.crop_seconds": 0.0, "objective.freeze_steps": 0, "objective.feature_grad": 1.0},
}
EXEMPT: dict[str, dict[str, str]] = {
    "batch mates": {"byol-s": "batch norms, and the post-norm of the two views, are over all clips of an update"},
}
ALONE = {"wav2vec2": {"objective.diversity_weight": 0.0}}  # the one term that is of the whole update by its definition
SHORT = {
    "train.steps": 4,
    "train.log_every": 1,
    "optim.lr": 1e-6,
}  # a small rate: Adam makes whole steps of rounding errors
RANK, SPREAD = 2.0, 1e-3  # floors of what is left after training; `test_collapse_breaks_the_floors`
KILLED = 24  # the copy of a run is made in the update after this one


def recipe_of(kind: str, **more: Any) -> Recipe:
    """A tiny recipe; more: values of further keys, with __ for the dot."""
    recipe = OBJECTIVES[kind].Recipe()
    values = TINY | OWN.get(kind, {}) | {key.replace("__", "."): value for key, value in more.items()}
    if OBJECTIVES[kind].whole_updates:
        values["data.micro_seconds"] = values["data.batch_seconds"]
    return apply(recipe, {key: value for key, value in values.items() if key in flat_values(recipe)}, kind)


def quiet(recipe: Recipe) -> Recipe:
    """The recipe without dropout, whose masks belong to micro-batches."""
    return apply(recipe, {key: 0.0 for key in flat_values(recipe) if "dropout" in key}, "the test")


def settings(kind: str, folder: Path, out: Path, **more: Any) -> Paths:
    """Where a run reads and writes."""
    init = folder / "start" if OBJECTIVES[kind].verb == "finetune" else None
    return Paths(train=[folder / "train.tsv"], valid=[folder / "valid.tsv"], out=out, init=init, **more)


def built(kind: str, recipe: Recipe, folder: Path) -> tuple[Objective, list[Item]]:
    """The objective as a run starts with it, and the items of its first pass over the data."""
    paths, rows = settings(kind, folder, folder), read_manifest(folder / "train.tsv")
    torch.manual_seed(recipe.train.seed)
    objective = OBJECTIVES[kind].build(recipe, source.read(paths.init) if paths.init else None, [rows])
    data = MicroBatches(objective.usable(rows, TRAINING), objective, recipe.data.crop_seconds, recipe.train.seed)
    items = [data.item(row, 0) for row in data.manifest]
    objective.initialise(lambda: objective.collate(items[:8]))
    return objective, items


@pytest.fixture(scope="module")
def folder(pretrained_folder, tmp_path_factory) -> Iterator[Path]:
    """The working folder: spoken digits as train.tsv and valid.tsv, their codes, and a model to start from."""
    folder, rows = tmp_path_factory.mktemp("contract"), read_manifest(DATA / "fsdd.tsv")
    names = ("id", "path", "duration", "speaker", "label", "text")
    for part, numbers in (("train", range(0, 1500, 38)), ("valid", range(7, 1500, 190))):
        write_table(folder / f"{part}.tsv", *({name: getattr(rows[i], name) for name in names} for i in numbers))
    shutil.copytree(pretrained_folder, folder / "start")
    cluster(None, [folder / "train.tsv", folder / "valid.tsv"], folder / "codes.parquet", clusters=[8, 12])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module", params=OBJECTIVES)
def run(request, folder) -> Path:
    """A run of 30 updates; beside it, `killed` is what a kill in update 25 leaves behind."""
    kind = request.param
    out, objective = folder / kind / "run", OBJECTIVES[kind]
    after_update = objective.after_update

    def copying(self: Objective, step: int, shared: Any) -> None:
        if step == KILLED:
            shutil.copytree(out, folder / kind / "killed", symlinks=True)
        after_update(self, step, shared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "after_update", copying)
        train(recipe_of(kind), settings(kind, folder, out))
    return out


def lines(run: Path) -> list[dict[str, Any]]:
    """The log without the clock."""
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in found]


def own_state(run: Path) -> dict[str, Any]:
    """The training state of a run's last checkpoint."""
    return torch.load(run / "last" / "state.pt", weights_only=True)


def doubled(batch: Movable) -> Any:
    """The batch in float64, where only a wrong formula differs."""
    return batch.each(lambda x: x.double() if x.is_floating_point() else x)


def gradients(objective: Objective, parts: Sequence[Sequence[Item]]) -> dict[str, torch.Tensor]:
    """Gradients of an update in these micro-batches, as the loop computes them."""
    objective.zero_grad()
    micros = [doubled(objective.collate(part)) for part in parts]
    shared = objective.before_update(3, micros)
    for micro in micros:
        (objective(micro, shared).loss / sum(each.count for each in micros)).backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_micro_batches_equal_the_whole_update_or_are_refused(kind, folder, tmp_path):
    if OBJECTIVES[kind].whole_updates:
        (tmp_path / "r.toml").write_text(f'kind = "{kind}"\n[data]\nbatch_seconds = 8.0\nmicro_seconds = 4.0\n')
        with pytest.raises(InputError, match="micro_seconds = 4 would cut"):
            parse_recipe(OBJECTIVES[kind].verb, tmp_path / "r.toml")
        return
    objective, items = built(kind, quiet(recipe_of(kind)), folder)
    objective.double().train()
    whole, cut = gradients(objective, [items[:9]]), gradients(objective, [items[:2], items[2:5], items[5:9]])
    assert whole.keys() == cut.keys()
    for name, expected in whole.items():
        assert float((cut[name] - expected).norm()) < 1e-6 * float(expected.norm()) + 1e-12, name


@pytest.fixture(scope="module")
def pairs(folder) -> Path:
    """`one` and `two`: four updates of every objective on one process, and on two."""
    for kind in OBJECTIVES:
        train(pair_recipe(kind), settings(kind, folder, folder / kind / "one"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DATA.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder


def pair_recipe(kind: str) -> Recipe:
    """Of four updates; dropout stays where both runs have the same micro-batches."""
    recipe = recipe_of(kind, **{key.replace(".", "__"): value for key, value in SHORT.items()})
    return quiet(recipe) if OBJECTIVES[kind].whole_updates else recipe


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_processes_equal_one(kind, pairs):
    one, two = pairs / kind / "one", pairs / kind / "two"
    for ours, theirs in zip(lines(two), lines(one), strict=True):
        for name, value in theirs.items():
            assert ours[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-4)), name
    expected, found = own_state(one), own_state(two)
    averaged = {number: moments["exp_avg"] for number, moments in expected["optimizer"]["state"].items()}
    largest = max(float(gradient.norm()) for gradient in averaged.values())
    for number, gradient in averaged.items():  # that of a bias before a batch norm is zero but for rounding
        gap = float((found["optimizer"]["state"][number]["exp_avg"] - gradient).norm())
        assert gap < 3e-3 * float(gradient.norm()) + 1e-4 * largest, number
    for name, value in expected["objective"].items():
        torch.testing.assert_close(found["objective"][name], value, atol=1e-3, rtol=1e-3, msg=name)


def test_a_resumed_run_equals_an_uninterrupted_one(run, folder):
    kind, killed = run.parent.name, run.parent / "killed"
    assert len(lines(killed)) < len(lines(run))
    torch.manual_seed(99)
    train(recipe_of(kind), settings(kind, folder, killed, resume=True))
    assert lines(killed) == lines(run)
    ours, theirs = load_file(killed / "last" / "model.safetensors"), load_file(run / "last" / "model.safetensors")
    assert all(ours[name].equal(value) for name, value in theirs.items())
    ours, theirs = own_state(killed)["objective"], own_state(run)["objective"]
    assert all(ours[name].equal(value) for name, value in theirs.items())


def test_a_checkpoint_opens_and_embeds(run, clip):
    model = speechssl.load(run)
    vector, random = model.embed(clip), model.untrained().embed(clip)
    assert vector.shape == (model.model.width,) and np.isfinite(vector).all()
    assert not np.allclose(vector, random, atol=1e-3)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_help_explains_every_key(kind, tmp_path, capsys):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'kind = "{kind}"\n')
    with pytest.raises(SystemExit):
        cli.main([OBJECTIVES[kind].verb, str(recipe), "--help"])
    shown = capsys.readouterr().out
    for key in flat_values(OBJECTIVES[kind].Recipe()):
        found = re.search(rf"^  (?:--)?{re.escape(key)} .*\n((?: {{8}}.*\n?)*)", shown, re.MULTILINE)
        assert found, f"{key} is not in the help"
        explained = re.sub(r"^\s*\([^)]*\)", "", found[1])  # the choices
        assert explained.strip(), f"{key} has no docstring"


@pytest.mark.parametrize("kind", [kind for kind in OBJECTIVES if kind not in EXEMPT["batch mates"]])
def test_batch_mates_change_nothing(kind, folder):
    recipe = apply(recipe_of(kind), ALONE.get(kind, {}), kind)
    objective, items = built(kind, recipe, folder)
    objective.double().eval()

    @torch.no_grad()
    def loss(part: Sequence[Item]) -> float:
        batch = doubled(objective.collate(part))
        return float(objective(batch, objective.before_update(0, [batch])).loss)

    assert loss(items[:6]) == pytest.approx(sum(loss([item]) for item in items[:6]), rel=1e-6)


def effective_rank(states_TD: torch.Tensor) -> tuple[float, float]:
    """(how many directions the frames spread over, what part of their power is spread at all): the exponential of the entropy
    of the covariance's spectrum, and its sum over the mean square. A collapsed network has 1 direction, or no spread."""
    centred_TD = states_TD.double() - states_TD.double().mean(dim=0)
    power_D = torch.linalg.svdvals(centred_TD).square()
    share_D = power_D / power_D.sum().clamp_min(1e-30)
    rank = float(torch.special.entr(share_D).sum().exp())
    return rank, float(power_D.sum() / states_TD.double().square().sum().clamp_min(1e-30))


def test_collapse_breaks_the_floors():
    generator = torch.Generator().manual_seed(0)
    noise_TD, direction_D = torch.randn(300, 16, generator=generator), torch.randn(16, generator=generator)
    rank, spread = effective_rank(direction_D + noise_TD)
    assert rank > RANK and spread > SPREAD
    assert effective_rank(direction_D + 1e-3 * noise_TD)[1] < SPREAD, "all frames alike"
    assert effective_rank(noise_TD[:, :1] * direction_D + 1e-3 * noise_TD)[0] < RANK, "all frames on one line"


def test_thirty_updates_lower_the_loss_of_unheard_speech_and_keep_its_rank(run, folder):
    kind = run.parent.name
    recipe = recipe_of(kind)
    objective, _ = built(kind, recipe, folder)
    objective.eval()
    data = MicroBatches(read_manifest(folder / "valid.tsv"), objective, recipe.data.crop_seconds, seed=5)
    items = [data.item(row, 0) for row in data.manifest]
    batch = objective.collate(items)

    @torch.no_grad()
    def measured() -> tuple[float, float, float]:
        loss = objective(batch, objective.before_update(30, [batch])).loss / batch.count
        states = objective.model.states([item.wave_S for item in items], [objective.model.layers - 1])
        return float(loss), *effective_rank(torch.cat([states_1TD[0] for states_1TD in states]))

    before, _, _ = measured()
    weights = {f"model.{name}": value for name, value in families.read(run / "last").state.items()}
    objective.load_state_dict(weights | own_state(run)["objective"])
    after, rank, spread = measured()
    assert after < before
    assert rank > RANK and spread > SPREAD


def test_the_example_for_contributors_keeps_the_contract(folder, tmp_path, monkeypatch, capsys):
    """The objective in CONTRIBUTING.md, as a file and a row."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (tmp_path / "loudness.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(OBJECTIVES, "loudness", importlib.import_module("loudness").Loudness)
    test_micro_batches_equal_the_whole_update_or_are_refused("loudness", folder, tmp_path)
    test_help_explains_every_key("loudness", tmp_path, capsys)
    test_batch_mates_change_nothing("loudness", folder)
    train(recipe_of("loudness", train__steps=10), settings("loudness", folder, tmp_path / "run"))
    assert lines(tmp_path / "run")[-2]["error"] < lines(tmp_path / "run")[0]["error"]
    assert "head.weight" in own_state(tmp_path / "run")["objective"]


if __name__ == "__main__":  # one rank of `pairs`
    leave, dist.leave = (
        dist.leave,
        lambda: None,
    )  # a second process group over the same store would meet the first one's keys
    for each in OBJECTIVES:
        train(pair_recipe(each), settings(each, Path(sys.argv[1]), Path(sys.argv[1]) / each / "two"))
    leave()
