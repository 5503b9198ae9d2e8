"""BYOL-S models: equal to the public code, independent of other clips, finite on any clip."""

import numpy as np
import pytest
import torch

import speechssl
from speechssl.api import SpeechModel
from speechssl.errors import InputError
from speechssl.interop.byols import CREMA_D_STATS, read_published, save_byols
from speechssl.models.byols import ByolsConfig, ByolsModel
from tests.models.byols_reference import SHARED, SMALL, formula, needs_shared

ENCODERS = {
    "audiontt2020_d2048": (dict(width=2048), 5_321_856),
    "audiontt2022_d3072": (dict(encoder="audiontt2022", width=3072), 6_333_376),
    "cvt_1-1-1_64-256-512_meanmax": (dict(encoder="cvt"), 5_012_992),
    "cvt_1-1-1_64-128-256_mean": (dict(encoder="cvt", dims=(64, 128, 256), pool="mean"), 1_583_488),
    "resnetish34": (dict(encoder="resnetish34"), 21_278_400),
}
TINY = {
    "audiontt2020": dict(width=16, channels=4),
    "audiontt2022": dict(encoder="audiontt2022", channels=4, width=80),
    "cvt": dict(encoder="cvt", dims=(8, 8, 16), heads=(1, 1, 1)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_equals_the_public_one(name):
    values, weights = ENCODERS[name]
    model = ByolsModel(ByolsConfig(**values)).eval()
    assert sum(p.numel() for p in model.encoder.parameters()) == weights
    model.encoder.load_state_dict(formula(model.encoder.state_dict()))
    with torch.no_grad():
        ours = model(torch.from_numpy(SMALL["input_96"])).numpy()
    assert ours.shape[1] == model.encoder.width
    theirs = SMALL[f"out_{name}"]
    np.testing.assert_allclose(ours[:, ::8] if ours.shape[1] > 256 else ours, theirs, rtol=1e-5, atol=1e-4)


def test_shipped_weights_give_the_published_embeddings():
    model = speechssl.load("byol-s")
    frames_TD = model.hidden_states([SMALL["signal_c"]])[0][0]
    np.testing.assert_allclose(frames_TD, SMALL["frames_c"], atol=1e-4)
    np.testing.assert_allclose(model.embed(SMALL["signal_c"]), SMALL["embedding_c"], atol=1e-4)


@needs_shared
def test_the_published_file_opens_as_it_is():
    path = SHARED.parents[1] / "weights" / "byols_audiontt2020_d512.pth"
    published, shipped = read_published(path), speechssl.load("byol-s").model
    np.testing.assert_allclose(published.mel_stats, CREMA_D_STATS)
    assert all(value.equal(published.state_dict()[key]) for key, value in shipped.state_dict().items())


def tiny(kind: str) -> SpeechModel:
    """A tiny random model of a kind."""
    return SpeechModel(ByolsModel(ByolsConfig(**TINY[kind])).eval(), None, {}, kind)


@pytest.mark.parametrize("kind", TINY)
def test_an_embedding_does_not_depend_on_other_clips(kind, speech):
    model, clips = tiny(kind), [speech[:9000], 0.01 * speech[9000:30000], speech[30000:40000]]
    together = [model.pool(states) for states in model.hidden_states(clips)]
    for clip, vector in zip(clips, together, strict=True):
        assert model.pool(model.hidden_states([clip])[0]).equal(vector)


CLIPS = {
    "silent": np.zeros(16000, np.float32),
    "constant": np.full(16000, 0.5, np.float32),
    "clipped": np.sign(np.sin(np.arange(16000) / 7)).astype(np.float32),
    "0.2 s": np.linspace(-1, 1, 3200, dtype=np.float32),
    "25 ms": np.ones(400, np.float32),
}


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("clip", CLIPS)
def test_any_clip_has_a_finite_embedding_and_gradient(kind, clip):
    model = tiny(kind)
    assert np.isfinite(model.embed(CLIPS[clip])).all()
    network = model.model.train()
    wave_BS = torch.from_numpy(np.pad(CLIPS[clip], (0, max(0, 2560 - len(CLIPS[clip])))))[None].repeat(2, 1)
    network(network.mels(wave_BS)).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_ten_minutes_are_embedded_in_pieces(speech):
    wave_S = np.tile(speech[:160_000], 60)
    assert np.isfinite(tiny("audiontt2020").embed(wave_S)).all()


def test_save_and_load(tmp_path):
    model = tiny("cvt").model
    model.mel_stats.copy_(torch.tensor([-5.0, 3.0]))
    save_byols(tmp_path, model, {"steps": 3})
    again = speechssl.load(tmp_path)
    assert again.config == model.config
    assert again.facts["speechssl"] == {"steps": 3}
    assert all(value.equal(model.state_dict()[key]) for key, value in again.model.state_dict().items())


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(InputError, match="encoder = 'vit' is not one of audiontt2020"):
        ByolsConfig(encoder="vit")  # type: ignore[arg-type]
    (tmp_path / "x.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a published BYOL-S state dict"):
        speechssl.load(tmp_path / "x.pth")
    with pytest.raises(InputError, match="has no CTC head"):
        speechssl.load("byol-s").log_probs([np.zeros(16000, np.float32)])
