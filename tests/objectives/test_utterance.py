"""The auxiliary path on wav2vec 2.0: additive over utterances, learns by gradient on one side, follows on the other."""

import pytest
import torch

from speechssl.models.wav2vec2.model import Wav2Vec2ForPreTraining
from speechssl.objectives.protocol import Item
from speechssl.objectives.wav2vec2 import Wav2Vec2Objective, Wav2Vec2ObjectiveConfig
from tests.conftest import tiny


def objective(weight: float) -> Wav2Vec2Objective:
    """A tiny learner."""
    torch.manual_seed(0)
    config = Wav2Vec2ObjectiveConfig(utterance_weight=weight, utterance_tau=0.5, diversity_weight=0.0)
    return Wav2Vec2Objective(Wav2Vec2ForPreTraining(tiny()), config, 1).train()


def test_utterances_add_up_and_the_target_follows(speech):
    learner, plain = objective(1.0), objective(0.0)
    clips = [Item(wave_S=speech[:16000], id="a", epoch=0), Item(wave_S=speech[16000:40000], id="b", epoch=0)]
    together = learner(learner.collate(clips))
    alone = [learner(learner.collate([clip])) for clip in clips]
    assert float(together.loss.detach()) == pytest.approx(sum(float(step.loss.detach()) for step in alone), rel=1e-5)
    extra = float(together.sums["utterance"][0])
    assert float(plain(plain.collate(clips)).loss.detach()) + extra == pytest.approx(
        float(together.loss.detach()), rel=1e-5
    )
    together.loss.backward()
    assert learner.utterance is not None
    assert all(p.grad is None for p in learner.utterance.target.parameters())
    assert learner.model.wav2vec2.encoder.layers[-1].feed_forward.output_dense.weight.grad.abs().sum() > 0
    weight = learner.model.wav2vec2.feature_projection.projection.weight
    before = learner.utterance.target[0].feature_projection.projection.weight.clone()
    with torch.no_grad():
        weight.add_(1.0)
    learner.after_step()
    after = learner.utterance.target[0].feature_projection.projection.weight
    torch.testing.assert_close(after, before + 0.5)
