"""Decision 1: an utterance in any batch gives what it gives alone."""

import numpy as np
import pytest
import torch

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry, pack, segments
from speechssl.data.loader import Item
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2ForPreTraining
from tests.conftest import FAMILIES, QUIET, masked_learner, one_step, tiny

LENGTHS = (400, 480_000, 719, 720, 16_000, 401, 33_333, 79_999, 5_000)


def cut(speech: np.ndarray, lengths=LENGTHS) -> list[np.ndarray]:
    """Clips of given lengths from different places of the speech."""
    return [speech[1000 * i : 1000 * i + n] for i, n in enumerate(lengths)]


def test_geometry_is_the_paper_s():
    geometry = Wav2Vec2Config().geometry
    assert (geometry.hop, geometry.receptive_field) == (320, 400)
    assert [geometry.frames(n) for n in (0, 399, 400, 719, 720, 16_000)] == [0, 0, 1, 1, 2, 49]


def test_a_batch_moves_whole(speech):
    """Every tensor of it, nested ones too; what is not a tensor stays."""
    objective = masked_learner()
    batch = objective.collate([Item(id="a", wave_S=speech[:16_000], epoch=0)])
    moved = batch.to("meta")
    for here, there in ((batch, moved), (batch.audio, moved.audio)):
        for name, value in vars(here).items():
            other = getattr(there, name)
            assert other.is_meta if isinstance(value, torch.Tensor) else type(other) is type(value)
    assert (moved.audio.frames, moved.keys, moved.count) == (batch.audio.frames, batch.keys, batch.count)


@pytest.mark.parametrize(
    "kernels, strides", [((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)), ((10, 8, 4), (5, 4, 4)), ((7,), (3,))]
)
def test_frames_agree_with_torch_convolutions(kernels, strides):
    geometry = Geometry(kernels=kernels, strides=strides)
    for samples in (geometry.receptive_field, geometry.receptive_field + geometry.hop - 1, 5000, 7777):
        x = torch.zeros(1, 1, samples)
        for kernel, stride in zip(kernels, strides, strict=True):
            x = torch.nn.functional.conv1d(x, torch.zeros(1, 1, kernel), stride=stride)
        assert geometry.frames(samples) == x.shape[2]


@torch.no_grad()
def test_every_layer_is_the_same_alone_and_in_a_batch(family, speech):
    model = Wav2Vec2ForPreTraining(tiny(family)).eval().wav2vec2
    waves = cut(speech)
    geometry, normalise = model.config.geometry, model.config.do_normalize
    batch = pack(waves, geometry, normalise=normalise)
    together = model(batch)
    assert batch.frames == tuple(geometry.frames(n) for n in LENGTHS)
    for wave, rows in zip(waves, segments(batch.frames), strict=True):
        alone = model(pack([wave], geometry, normalise=normalise))
        torch.testing.assert_close(together.features_TC[rows], alone.features_TC, atol=1e-5, rtol=0)
        for state, expected in zip(together.states, alone.states, strict=True):
            torch.testing.assert_close(state[rows], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", sorted(FAMILIES))
def test_loss_terms_of_a_batch_are_those_of_its_utterances(norm, speech):
    objective = masked_learner(Wav2Vec2ForPreTraining(tiny(norm)), seed=3).train()
    items = [Item(wave_S=wave, id=str(i), epoch=2) for i, wave in enumerate(cut(speech))]
    together = one_step(objective, objective.collate(items)).sums
    alone = [one_step(objective, objective.collate([item])).sums for item in items]
    for name in ("contrastive", "accuracy", "penalty"):
        total = sum(float(step[name][0]) for step in alone)
        assert float(together[name][0]) == pytest.approx(total, rel=1e-5, abs=1e-5), name


def test_shorter_than_a_frame_is_refused():
    with pytest.raises(InputError, match="399 samples"):
        pack([np.zeros(1600, np.float32), np.zeros(399, np.float32)], Wav2Vec2Config().geometry)


def test_base_sized_model_is_the_same_alone_and_in_a_batch(speech):
    model = Wav2Vec2ForPreTraining(Wav2Vec2Config(**QUIET)).eval().wav2vec2
    waves = cut(speech, (400, 30_000, 7_000))
    with torch.no_grad():
        batch = pack(waves, model.config.geometry)
        together = model(batch).states
        for wave, rows in zip(waves, segments(batch.frames), strict=True):
            for state, expected in zip(together, model(pack([wave], model.config.geometry)).states, strict=True):
                torch.testing.assert_close(state[rows], expected, atol=1e-5, rtol=0)
