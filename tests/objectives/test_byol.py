"""BYOL: views, loss and updates equal to the public ones; views independent of batch mates; target, memory bank, odd clips."""

import numpy as np
import pytest
import torch

from speechssl.core.errors import InputError
from speechssl.data.loader import Item
from speechssl.models.byols.model import ByolsConfig, ByolsModel
from speechssl.models.kernels.norm import BatchNorm, standardised
from speechssl.objectives.byol import Byol, ByolBatch, ByolObjectiveConfig, Recipe, regression
from speechssl.objectives.handcrafted import TARGETS, librosa_functionals, librosa_names
from speechssl.objectives.recipe import DataConfig
from speechssl.objectives.views import ViewConfig, linear_fader, log_mixup_exp, resize_crop
from speechssl.train.optim import build_optimizer
from speechssl.train.recipe import parse_recipe
from tests.conftest import ROOT, one_step
from tests.models.byols_reference import REFERENCE, formula

TINY = dict(hidden=16, projection=8, bank=5)


def reference(name: str) -> torch.Tensor:
    """A reference array."""
    return torch.from_numpy(REFERENCE[name])


def same(ours: torch.Tensor, name: str, every: int = 3) -> None:
    """Equal to a reference array, of which every third value is kept."""
    torch.testing.assert_close(ours[..., ::every, ::every].squeeze(0), reference(name), atol=2e-5, rtol=1e-5)


def test_views_equal_the_public_ones():
    x, other = reference("aug_input")[None], reference("aug_input2")[None]
    for i, box in enumerate(reference("aug_boxes")):
        same(resize_crop(x, box[None], canvas=144), f"crop_{i}")
    same(log_mixup_exp(x, other, torch.tensor([0.3])), "mix_0.7")
    same(linear_fader(x, torch.tensor([0.5]), torch.tensor([-0.8])), "fader")
    same(standardised(torch.cat([x, other])), "post_norm")


def test_loss_equals_the_public_one():
    p1, p2, z1, z2 = (reference(name) for name in ("p1", "p2", "z1", "z2"))
    loss = (regression(p1, z2) + regression(p2, z1)).mean()
    assert float(loss) == pytest.approx(float(REFERENCE["byol_loss"]), rel=1e-6)


def objective(model: dict | None = None, seconds: float = 0.3, **changes) -> Byol:
    """A tiny objective on crops of 0.3 s, or of `seconds`."""
    torch.manual_seed(0)
    recipe = Recipe(
        model=ByolsConfig(**(model or dict(width=8, channels=4, dropout=0.0))),
        objective=ByolObjectiveConfig(**(TINY | changes)),
        data=DataConfig(crop_seconds=seconds),
    )
    return Byol(recipe, ByolsModel(recipe.model)).train()


def views(learner: Byol, batch: ByolBatch) -> tuple[torch.Tensor, ...]:
    """The two views of a batch."""
    return learner.views(learner.before_update(0, [batch]))


def update(learner: Byol, batch: ByolBatch):
    """The step of one update, and what follows the optimiser's step."""
    shared = learner.before_update(0, [batch])
    step = learner(batch, shared)
    learner.after_update(0, shared)
    return step


def reference_weights(learner: Byol) -> None:
    """Fill in the weights of `byol_step.npz`; its batch norms have seen nothing yet."""
    heads = {"0": "lin1", "1": "bn", "3": "lin2"}  # the reference's names: keys are ranked by them, so bn comes first
    parts = {0: learner.model.encoder, 200: learner.projector, 300: learner.predictor}
    parts |= {400: learner.target[0], 500: learner.target[1]}
    for offset, part in parts.items():
        state = part.state_dict()
        theirs = {key: ".".join(heads.get(name, name) for name in key.split(".", 1)) for key in state}
        filled = formula({theirs[key]: value for key, value in state.items()}, offset)
        part.load_state_dict({key: filled[name] for key, name in theirs.items()})
        part.to(memory_format=torch.contiguous_format)  # channels last, torch sums a batch norm's variance to 1e-5 only
        for norm in (module for module in part.modules() if isinstance(module, BatchNorm)):
            norm.reset_running_stats()


# Largest error allowed: float32's. A target that followed one update late would miss the losses by 4.6e-5, its own weights by
# 9e-6. conv1's bias has no gradient, from whose rounding AdamW makes steps; the running mean in front of it follows those.
UPDATE_ATOL = {
    "grad_global_norm": 2e-4,
    "grad_conv1_w": 3e-3,
    "grad_pred_lin2": 2e-6,
    "losses_3steps": 2e-5,
    "after_conv1_w": 3e-5,
    "after_proj_lin2_w": 5e-6,
    "after_target_conv1_w": 2e-6,
    "after_target_bn1_running_mean": 6e-6,
    "after_online_bn1_running_mean": 4e-4,
}


def test_three_updates_equal_the_reference(monkeypatch):
    theirs = {key: torch.from_numpy(REFERENCE[f"step_{key}"]) for key in (*UPDATE_ATOL, "view1", "view2")}
    learner = objective(dict(width=64, dropout=0.0), seconds=0.95, hidden=128, projection=32)
    reference_weights(learner)
    pair = [theirs[name].squeeze(1) for name in ("view1", "view2")]
    monkeypatch.setattr(learner, "views", lambda shared: pair)
    batch = learner.collate([Item(wave_S=np.zeros(15_200, np.float32), id=str(i), epoch=0) for i in range(8)])
    online, target = learner.model.encoder.features, learner.target[0].features
    optimizer = build_optimizer(learner, {}, Recipe().optim)
    losses, ours = [], {}
    for _ in range(3):
        shared = learner.before_update(0, [batch])
        loss = learner(batch, shared).loss / batch.count
        loss.backward()
        losses.append(loss.detach())
        if not ours:
            ours["grad_global_norm"] = torch.nn.utils.clip_grad_norm_(learner.parameters(), float("inf"))
            ours["grad_conv1_w"] = online[0].weight.grad.clone()
            ours["grad_pred_lin2"] = learner.predictor[3].weight.grad[::4].clone()
        optimizer.step()
        optimizer.zero_grad()
        learner.after_update(0, shared)
    ours["losses_3steps"] = torch.stack(losses).double()
    ours["after_conv1_w"], ours["after_proj_lin2_w"] = online[0].weight, learner.projector[3].weight[::4]
    ours["after_target_conv1_w"] = target[0].weight
    ours["after_target_bn1_running_mean"] = target[1].running_mean
    ours["after_online_bn1_running_mean"] = online[1].running_mean
    for name, atol in UPDATE_ATOL.items():
        error = float((ours[name].detach() - theirs[name]).abs().max())
        assert error < atol, f"{name} is off by {error:.1e}"


def items(speech, count: int, epoch: int = 0) -> list[Item]:
    """Crops of speech."""
    return [Item(wave_S=speech[i * 4800 : (i + 1) * 4800], id=f"u{i}", epoch=epoch) for i in range(count)]


def test_a_view_depends_on_its_utterance_and_epoch_only(speech):
    learner, clips = objective(post_norm=False, views=ViewConfig(fader=1.0)), items(speech, 4)
    together, other = views(learner, learner.collate(clips))
    alone, _ = views(learner, learner.collate(clips[2:3]))
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[2], other[2], atol=0.1), "the two views are drawn independently"
    later, _ = views(learner, learner.collate([Item(wave_S=clips[2].wave_S, id="u2", epoch=1)]))
    assert not torch.allclose(later, alone, atol=0.1), "a new pass over the data brings new views"


def test_after_a_step_the_target_follows_and_the_bank_holds_the_newest_clips(speech):
    learner = objective(tau=0.9)
    first = learner.collate(items(speech, 3))
    before = [p.clone() for p in learner.target.parameters()]
    with torch.no_grad():
        for p in [*learner.model.encoder.parameters(), *learner.projector.parameters()]:
            p.add_(1.0)
    update(learner, first)
    for old, new in zip(before, learner.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1, atol=1e-5, rtol=1e-5)
    update(learner, learner.collate(items(speech, 4)))
    assert int(learner.bank_seen) == 7
    mels = learner.model.mels(learner.waves(learner.collate(items(speech, 4))))
    held = [any(torch.allclose(mel, slot) for slot in learner.bank_MFT) for mel in mels]
    assert all(held), "the last update's clips are all in the bank"


def test_nothing_of_the_target_learns_by_gradient(speech):
    learner = objective()
    one_step(learner, learner.collate(items(speech, 4))).loss.backward()
    assert all(p.grad is None for p in learner.target.parameters())
    assert all(p.grad is not None for p in learner.model.parameters())


def test_an_update_cannot_be_cut():
    with pytest.raises(InputError, match=r"micro_seconds = 10 would cut .* but byol-s normalises over whole updates"):
        parse_recipe("pretrain", ROOT / "recipes/byols/pretrain.toml", ["--data.micro_seconds", "10"])


@pytest.mark.parametrize("model", [dict(width=8, channels=4), dict(encoder="cvt", dims=(8, 8, 8), heads=(1, 1, 1))])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_silence_and_constants_give_no_nan(model, value):
    learner = objective(model, hybrid="librosa")
    waves = [np.full(4800, value, np.float32), np.full(700, value, np.float32), np.zeros(4800, np.float32)]
    batch = learner.collate([Item(wave_S=w, id=str(i), epoch=0) for i, w in enumerate(waves)])
    learner.initialise(lambda: batch)
    one_step(learner, batch).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_hybrid_tells_handcrafted_features(speech):
    learner = objective(hybrid="librosa", hybrid_weight=2.0)
    batch = learner.collate(items(speech, 6))
    learner.initialise(lambda: batch)
    step = one_step(learner, batch)
    assert step.sums["hybrid"][0] > 0
    assert float(step.loss.detach()) == pytest.approx(
        float(step.sums["byol"][0] + 2 * step.sums["hybrid"][0]), rel=1e-5
    )


def test_functionals_hear_pitch_and_level():
    names, t = librosa_names(), np.arange(16000) / 16000
    voice = {f0: sum(np.sin(2 * np.pi * k * f0 * t) / k for k in range(1, 8)).astype(np.float32) for f0 in (120, 240)}
    low, high, soft = (
        dict(zip(names, librosa_functionals(wave_S), strict=True))
        for wave_S in (voice[120], voice[240], 0.1 * voice[120])
    )
    assert low["f0_mean"] == pytest.approx(1.0, abs=0.05), "120 Hz is one octave over 60 Hz"
    assert high["f0_mean"] == pytest.approx(2.0, abs=0.05)
    assert low["energy_mean"] - soft["energy_mean"] == pytest.approx(np.log(100), abs=0.05)


def test_a_silent_first_update_does_not_ruin_the_rest():
    """Its statistics are those of silence; loud clips come later, and their views stay finite."""
    learner = objective(hybrid="librosa")
    learner.initialise(lambda: learner.collate(items(np.zeros(4 * 4800, np.float32), 4)))
    rng = np.random.default_rng(0)
    for _ in range(2):  # the second one mixes with what the first one left in the memory bank
        clips = items(rng.normal(0, 0.3, 4 * 4800).astype(np.float32), 4)
        assert torch.isfinite(update(learner, learner.collate(clips)).loss)
    mixed = log_mixup_exp(torch.full((1, 2, 2), 200.0), torch.zeros(1, 2, 2), torch.tensor([0.5]))
    torch.testing.assert_close(mixed, torch.full((1, 2, 2), 200.0 + np.log(0.5)))


def test_an_update_of_one_crop_learns():
    learner = objective()
    crop = items(np.random.default_rng(0).normal(0, 0.1, 4800).astype(np.float32), 1)
    one_step(learner, learner.collate(crop)).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind, name", [("egemaps", "egemapsv02"), ("compare", "compare2016")])
def test_opensmile_targets_are_its_own(kind, name):
    pytest.importorskip("opensmile")
    wave_S, every = REFERENCE["signal_a"][:15_200], 8 if kind == "compare" else 1
    assert TARGETS[kind].names()[::every] == [text.decode() for text in REFERENCE[f"{name}_names"]]
    values, theirs = TARGETS[kind].compute(wave_S)[::every], np.nan_to_num(REFERENCE[name])
    np.testing.assert_allclose(values, theirs, rtol=1e-4, atol=1e-4)
