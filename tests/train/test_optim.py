"""The schedules at their corners, and which weights get which rate."""

import pytest
import torch

from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.objectives.recipe import OptimConfig
from speechssl.train.optim import build_optimizer, learning_rate
from tests.conftest import tiny


def test_polynomial_rises_and_falls_to_zero():
    config = OptimConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0, abs=0.011)
    assert rates.index(max(rates)) in range(98, 102)
    assert rates[550] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] < 0.002


def test_tri_stage_holds_and_ends_at_five_percent():
    config = OptimConfig(lr=1.0, schedule="tri-stage", warmup=0.1, hold=0.4)
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.0199, abs=1e-3)
    assert all(rate == 1.0 for rate in rates[100:499])
    assert rates[749] == pytest.approx(0.05**0.5, rel=0.01)
    assert rates[-1] == pytest.approx(0.05)


def test_the_new_layer_learns_faster():
    model = Wav2Vec2ForCTC(tiny(), vocab_size=5)
    optimizer = build_optimizer(model, {"lm_head.": 5.0}, OptimConfig())
    assert [group["scale"] for group in optimizer.param_groups] == [1.0, 5.0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert torch.equal(optimizer.param_groups[1]["params"][0], model.lm_head.weight)
