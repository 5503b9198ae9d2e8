"""BYOL: views and loss equal to the public code; views independent of batch mates; target, memory bank, odd clips."""

import numpy as np
import pytest
import torch

from speechssl.data.functionals import librosa_functionals, librosa_names
from speechssl.errors import InputError
from speechssl.models.byols import ByolsConfig, ByolsModel
from speechssl.models.norm import standardised
from speechssl.objectives.byol import ByolObjective, ByolObjectiveConfig, regression
from speechssl.objectives.protocol import Item
from speechssl.objectives.views import ViewConfig, linear_fader, log_mixup_exp, resize_crop
from tests.models.byols_reference import SMALL

TINY = dict(hidden=16, projection=8, bank=5)


def reference(name: str) -> torch.Tensor:
    """A reference array."""
    return torch.from_numpy(SMALL[name])


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
    assert float(loss) == pytest.approx(float(SMALL["byol_loss"]), rel=1e-6)


def objective(model: dict | None = None, **changes) -> ByolObjective:
    """A tiny objective on crops of 0.3 s."""
    torch.manual_seed(0)
    network = ByolsModel(ByolsConfig(**(model or dict(width=8, channels=4, dropout=0.0))))
    return ByolObjective(network, ByolObjectiveConfig(**(TINY | changes)), 1, 4800).train()


def items(speech, count: int, epoch: int = 0) -> list[Item]:
    """Crops of speech."""
    return [Item(wave_S=speech[i * 4800 : (i + 1) * 4800], id=f"u{i}", epoch=epoch) for i in range(count)]


def test_a_view_depends_on_its_utterance_and_epoch_only(speech):
    learner, clips = objective(post_norm=False, views=ViewConfig(fader=1.0)), items(speech, 4)
    _, together, other = learner.views(learner.collate(clips))
    _, alone, _ = learner.views(learner.collate(clips[2:3]))
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[2], other[2], atol=0.1), "the two views are drawn independently"
    _, later, _ = learner.views(learner.collate([Item(wave_S=clips[2].wave_S, id="u2", epoch=1)]))
    assert not torch.allclose(later, alone, atol=0.1), "a new pass over the data brings new views"


def test_after_a_step_the_target_follows_and_the_bank_holds_the_newest_clips(speech):
    learner = objective(tau=0.9)
    first = learner.collate(items(speech, 3))
    before = [p.clone() for p in learner.target.parameters()]
    with torch.no_grad():
        for p in [*learner.model.encoder.parameters(), *learner.projector.parameters()]:
            p.add_(1.0)
    learner(first)
    learner.after_step()
    for old, new in zip(before, learner.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1, atol=1e-5, rtol=1e-5)
    learner(learner.collate(items(speech, 4)))
    learner.after_step()
    assert int(learner.bank_seen) == 7
    mels = learner.model.mels(learner.waves(learner.collate(items(speech, 4))))
    held = [any(torch.allclose(mel, slot) for slot in learner.bank_MFT) for mel in mels]
    assert all(held), "the last update's clips are all in the bank"


def test_nothing_of_the_target_learns_by_gradient(speech):
    learner = objective()
    learner(learner.collate(items(speech, 4))).loss.backward()
    assert all(p.grad is None for p in learner.target.parameters())
    assert all(p.grad is not None for p in learner.model.parameters())


def test_an_update_cannot_be_cut(speech):
    learner = objective()
    batch = learner.collate(items(speech, 2))
    with pytest.raises(InputError, match="must hold one process's share"):
        learner.pool([batch, batch])


@pytest.mark.parametrize("model", [dict(width=8, channels=4), dict(encoder="cvt", dims=(8, 8, 8), heads=(1, 1, 1))])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_silence_and_constants_give_no_nan(model, value):
    learner = objective(model, hybrid="librosa")
    waves = [np.full(4800, value, np.float32), np.full(700, value, np.float32), np.zeros(4800, np.float32)]
    batch = learner.collate([Item(wave_S=w, id=str(i), epoch=0) for i, w in enumerate(waves)])
    learner.initialise(batch)
    learner(batch).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_hybrid_tells_handcrafted_features(speech):
    learner = objective(hybrid="librosa", hybrid_weight=2.0)
    batch = learner.collate(items(speech, 6))
    learner.initialise(batch)
    step = learner(batch)
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
