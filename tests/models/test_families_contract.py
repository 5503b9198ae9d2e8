"""What every network family promises; a new row of FAMILIES is tested here, with one line in NETWORKS if its config is new."""

from dataclasses import fields

import numpy as np
import pytest
import torch

import speechssl
from speechssl.core.errors import InputError
from speechssl.models import families
from speechssl.models.byols.model import ByolsConfig, ByolsModel
from speechssl.models.checkpoint import checkpoint_of
from speechssl.models.families import FAMILIES
from speechssl.models.protocol import Encoder
from speechssl.models.wav2vec2.config import LOG_MEL, Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder

NETWORKS = {Wav2Vec2Config: Wav2Vec2Encoder, ByolsConfig: ByolsModel}  # config -> network without a head
TINY = {  # of which each config takes the fields that it has
    "conv_dim": (8,) * 7,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "width": 16,
    "channels": 4,
}
OWN = {  # what a family needs besides
    "data2vec-audio": {"feat_extract_norm": "layer"},
    "wav2vec2-conformer": {"position_embeddings_type": "relative"},
    "wav2vec2-bert": {
        **LOG_MEL,
        "feat_extract_norm": "layer",
        "num_conv_pos_embedding_groups": 1,
        "num_conv_pos_embeddings": 128,
        "position_embeddings_type": "relative_key",
    },
}


@pytest.fixture(scope="module", params=FAMILIES)
def made(request) -> Encoder:
    """A tiny network of a family, in evaluation mode."""
    config = FAMILIES[request.param].config
    names = {field.name for field in fields(config)}
    values = TINY | OWN.get(request.param, {}) | {"model_type": request.param}
    torch.manual_seed(3)
    return NETWORKS[config](config(**{name: value for name, value in values.items() if name in names})).eval()


@pytest.fixture(scope="module")
def opened(made, tmp_path_factory) -> speechssl.SpeechModel:
    """The same network, written and read."""
    folder = tmp_path_factory.mktemp("family")
    families.save(folder, made, None, {"seed": 3})
    return speechssl.load(folder)


@pytest.fixture(scope="module")
def waves(speech) -> list[np.ndarray]:
    """Three pieces of speech of unequal length."""
    return [speech[:9_000], speech[20_000:44_000], speech[50_000:61_000]]


def test_what_is_read_is_what_was_written(made, opened, waves):
    assert opened.config == made.config
    assert opened.config_json["speechssl"] == {"seed": 3}
    with torch.inference_mode():
        expected = made.states(waves)
    for found_LTD, expected_LTD in zip(opened.hidden_states(waves), expected, strict=True):
        assert torch.equal(found_LTD, expected_LTD)


def test_half_the_bits_give_nearly_the_same(opened, waves, tmp_path):
    opened.save(tmp_path, half=True)
    exact = opened.embed(waves[1])
    np.testing.assert_allclose(speechssl.load(tmp_path).embed(waves[1]), exact, atol=0.02 * np.abs(exact).max())


def test_states_have_the_layers_and_the_width_that_the_network_names(opened, waves):
    network = opened.model
    for states_LTD, wave_S in zip(opened.hidden_states(waves), waves, strict=True):
        layers, frames, width = states_LTD.shape
        assert (layers, width) == (network.layers, network.width)
        assert abs(frames - len(wave_S) / network.geometry.hop) < 2
        assert torch.isfinite(states_LTD).all()
    chosen = [network.layers - 1, 0]
    picked, everything = opened.hidden_states(waves, chosen)[1], opened.hidden_states(waves)[1]
    assert torch.equal(picked, everything[chosen])
    shortest = np.zeros(network.geometry.receptive_field, np.float32)
    assert opened.hidden_states([shortest])[0].shape[1] >= 1


def test_packed_equals_alone(opened, waves):
    for number, together_LTD in enumerate(opened.hidden_states(waves)):
        alone_LTD = opened.hidden_states(waves[number : number + 1])[0]
        torch.testing.assert_close(together_LTD, alone_LTD, rtol=0, atol=1e-5)


def test_an_embedding_is_one_vector_and_tells_clips_apart(opened, waves):
    first, second = opened.embed(waves[0]), opened.embed(waves[1])
    assert first.shape == (opened.model.width,)
    assert np.abs(first - second).max() > 10 * np.abs(first - opened.embed(waves[0])).max()


def test_untrained_is_the_same_network_with_other_weights(opened, waves):
    fresh, again, other = opened.untrained(1), opened.untrained(1), opened.untrained(2)
    assert fresh.config == opened.config
    vector = fresh.embed(waves[1])
    np.testing.assert_array_equal(vector, again.embed(waves[1]))
    for model in (opened, other):
        assert not np.allclose(model.embed(waves[1]), vector, atol=1e-4)


def test_frames_have_times(opened, speech):
    frames_BTD, centre_T = opened.model.timestamps([torch.from_numpy(speech[start:][:16_000]) for start in (0, 20_000)])
    assert frames_BTD.shape == (2, len(centre_T), opened.model.width)
    assert (centre_T.diff() > 0).all() and centre_T[0] >= 0 and centre_T[-1] <= 16_000


def test_what_a_network_has_no_head_for_is_refused(opened, waves):
    assert opened.model.head == ""
    for ask in (opened.model.log_probs, opened.model.class_logits):
        with pytest.raises(InputError):
            ask(waves)


def test_a_family_describes_its_models(opened):
    described = FAMILIES[opened.config.model_type].describe(checkpoint_of(opened.model, None, opened.config_json))
    assert described and all(name and text for name, text in described.items())
