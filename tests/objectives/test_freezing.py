"""What learns in fine-tuning when only a part shall: the rest stays, and needs neither gradients nor moments."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speechssl.core.config import apply
from speechssl.core.errors import InputError
from speechssl.data.loader import Item
from speechssl.data.tables import read_manifest
from speechssl.interop import source
from speechssl.models import families
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.objectives.ctc import CTC, CTCObjectiveConfig, Recipe
from speechssl.text.tokenizer import CharTokenizer
from speechssl.train.run import Paths, train
from tests.conftest import digits, one_step, tiny, write_table

LEARNING = {  # settings -> the names of what learns
    "all": ({}, r"(?!wav2vec2\.feature_extractor\.)"),
    "top": ({"train_layers": 1}, r"lm_head|wav2vec2\.encoder\.layers\.2\."),
    "head": ({"train_layers": 0}, r"lm_head"),
    "adapters": ({"adapters": 4}, r"lm_head|wav2vec2\.encoder\.layers\.\d\.adapter_layer\."),
    "top adapters": ({"adapters": 4, "train_layers": 2}, r"lm_head|wav2vec2\.encoder\.layers\.[12]\.adapter_layer\."),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A pre-LN network of three layers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    families.save(folder, Wav2Vec2ForPreTraining(tiny("layer-pre", num_hidden_layers=3)), None, {})
    write_table(folder / "x.tsv", *digits())
    return folder


def recipe_of(settings: dict) -> Recipe:
    """Four updates of some digits, with dropout."""
    values = {f"objective.{key}": value for key, value in ({"freeze_steps": 0} | settings).items()}
    values |= {"data.batch_seconds": 3.0, "data.workers": 0, "optim.lr": 1e-2, "model.hidden_dropout": 0.1}
    values |= {"train.steps": 4, "train.save_every": 2, "train.precision": "float32", "train.log_every": 1}
    return apply(Recipe(), values, "the test")


def built(start: Path, settings: dict, init: Path | None = None) -> CTC:
    """The objective as a run starts with it."""
    return CTC.build(recipe_of(settings), source.read(init or start), [read_manifest(start / "x.tsv")])


@pytest.mark.parametrize("name", LEARNING)
def test_the_rest_stays_and_has_no_moments_and_a_killed_run_resumes_bit_for_bit(name, start, tmp_path, monkeypatch):
    settings, pattern = LEARNING[name]
    recipe, paths = recipe_of(settings), Paths(train=[start / "x.tsv"], init=start, out=tmp_path / "killed")
    train(recipe, replace(paths, out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(CTC, "after_update", lambda self, step, shared: 1 / (2 - step))
        with pytest.raises(ZeroDivisionError):
            train(recipe, paths)
    train(recipe, replace(paths, resume=True))
    whole, killed = (load_file(tmp_path / out / "last" / "model.safetensors") for out in ("whole", "killed"))
    assert all(killed[key].equal(value) for key, value in whole.items())
    before = source.read(start).state
    learning = {key for key in whole if re.match(pattern, key)}
    assert all(whole[key].equal(before[key]) for key in before.keys() & whole.keys() - learning)
    moved = [key for key in learning & before.keys() if not whole[key].equal(before[key])]
    assert moved or name not in ("all", "top")
    state = torch.load(tmp_path / "whole" / "last" / "state.pt", weights_only=True)["optimizer"]["state"]
    moments = sum(moment["exp_avg"].numel() for moment in state.values())
    assert moments == sum(p.numel() for key, p in built(start, settings).model.named_parameters() if key in learning)


def test_new_adapters_are_read_by_transformers(start, tmp_path, speech):
    from transformers import Wav2Vec2ForCTC as Theirs

    train(recipe_of({"adapters": 4}), Paths(train=[start / "x.tsv"], init=start, out=tmp_path / "run"))
    theirs = Theirs.from_pretrained(tmp_path / "run" / "last").eval()
    model = families.family(checkpoint := source.read(tmp_path / "run")).build(checkpoint)
    wave = speech[:16_000]
    with torch.no_grad():
        expected_TV = theirs(torch.from_numpy((wave - wave.mean()) / (wave.var() + 1e-7) ** 0.5)[None]).logits[0]
        torch.testing.assert_close(model.log_probs([wave])[0], expected_TV.log_softmax(-1), atol=1e-4, rtol=1e-4)
    again = built(start, {"adapters": 4}, tmp_path / "run").model.state_dict()
    assert all(again[key].equal(value) for key, value in checkpoint.state.items() if ".adapter_layer." in key)


def objective_of(recompute: bool = False, dropout: float = 0.0, **settings) -> CTC:
    """Four layers."""
    torch.manual_seed(0)
    tokenizer, config = CharTokenizer.build(["one two"]), CTCObjectiveConfig(freeze_steps=0, **settings)
    recipe = apply(Recipe(objective=config), {"train.gradient_checkpointing": recompute}, "the test")
    width = settings.get("adapters", 0)
    network = tiny("layer-pre", num_hidden_layers=4, hidden_dropout=dropout, layerdrop=dropout, adapter_width=width)
    return CTC(recipe, Wav2Vec2ForCTC(network, len(tokenizer)), tokenizer)


def items_of(speech) -> list[Item]:
    """Two clips."""
    return [Item(wave_S=speech[start:30_000], id=str(start), epoch=0, text="one two") for start in (0, 9000)]


@pytest.mark.parametrize("settings", [{"feature_grad": 1.0}, {"train_layers": 2}, {"adapters": 4}])
def test_recomputing_changes_no_gradient(settings, speech):
    """With dropout, whose masks are drawn again, and with skipped layers."""
    found = []
    for recompute in (False, True):
        objective = objective_of(recompute, 0.2, **settings).train()
        torch.manual_seed(7)
        one_step(objective, objective.collate(items_of(speech)), update=3).loss.backward()
        found.append({name: p.grad for name, p in objective.named_parameters() if p.grad is not None})
    expected, again = found
    assert expected.keys() == again.keys() and all(again[name].equal(value) for name, value in expected.items())


def test_the_backward_pass_ends_at_the_lowest_layer_that_learns(speech):
    """The same gradients there, and fewer tensors wait for them."""
    waiting, grads = {}, {}
    for layers in (None, 1):
        objective = objective_of(train_layers=layers).train()
        batch = objective.collate(items_of(speech))
        seen: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=seen: s.append(x.numel()) or x, lambda x: x):
            loss = one_step(objective, batch).loss
        loss.backward()
        waiting[layers] = sum(seen)
        grads[layers] = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    assert waiting[1] < 0.45 * waiting[None]
    assert len(grads[1]) < len(grads[None])
    assert all(value.equal(grads[None][name]) for name, value in grads[1].items())


def test_the_share_that_learns_is_reported(start, capsys):
    objective = built(start, {"train_layers": 0})
    head, total = (sum(p.numel() for p in m.parameters()) for m in (objective.model.lm_head, objective.model))
    assert capsys.readouterr().err == f"{head:,} of {total:,} weights learn ({head / total:.1%})\n"


def test_what_cannot_be_is_refused(start, pretrained_folder, tmp_path):
    for settings, said in (
        ({"train_layers": 9}, "train_layers = 9, but the network has 3"),
        ({"train_layers": -1}, "train_layers = -1 cannot be negative; none switches it off"),
        ({"adapters": -2}, "adapters = -2 cannot be negative"),
    ):
        with pytest.raises(InputError, match=said):
            built(start, settings)
    with pytest.raises(InputError, match=r"adapters go into pre-LN networks .* is not"):
        built(start, {"adapters": 4}, pretrained_folder)
    (tmp_path / "narrow").mkdir()
    families.save(tmp_path / "narrow", (objective := built(start, {"adapters": 4})).model, objective.tokenizer, {})
    with pytest.raises(InputError, match=r"adapters = 8, but .* has adapters of width 4"):
        built(start, {"adapters": 8}, tmp_path / "narrow")
