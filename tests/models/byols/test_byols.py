"""BYOL-S models: equal to the public code, independent of other clips, finite on any clip."""

import hashlib
import sys

import numpy as np
import pytest
import torch

import speechssl
from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.interop.byols import CREMA_D_STATS, SLANEY_STATS
from speechssl.interop.source import read
from speechssl.models import families
from speechssl.models.byols.model import ByolsConfig, ByolsModel
from speechssl.models.kernels.norm import BatchNorm
from speechssl.use import embed
from speechssl.use.api import SpeechModel
from speechssl.use.embed import embed_waves
from tests.conftest import ROOT, refused
from tests.models.byols_reference import REFERENCE, formula

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
        ours = model(torch.from_numpy(REFERENCE["input_96"])).numpy()
    assert ours.shape[1] == model.encoder.width
    theirs = REFERENCE[f"out_{name}"]
    ours = ours[:, ::8] if ours.shape[1] > 256 else ours
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())  # of sums whose terms cancel


def test_shipped_weights_give_the_published_embeddings():
    model = speechssl.load("byol-s")
    frames_TD = model.hidden_states([REFERENCE["signal_c"]])[0][0]
    np.testing.assert_allclose(frames_TD, REFERENCE["frames_c"], atol=1e-4)
    np.testing.assert_allclose(model.embed(REFERENCE["signal_c"]), REFERENCE["embedding_c"], atol=1e-4)


def test_wide_weights_hold_the_published_ones(speech):
    wide, published = (speechssl.load(name).embed(speech[:32_000]) for name in ("byol-s-wide", "byol-s"))
    assert wide.shape == (2560,)
    np.testing.assert_allclose(wide[:512], published, atol=5e-3 * published.max())  # 16 bits


def test_two_networks_side_by_side_give_both_embeddings(speech):
    """Exactly when their inputs are normalised alike; else but for what lies at the border, where zeros are padded."""
    sys.path.insert(0, str(ROOT / "recipes" / "byols"))
    try:
        from side_by_side import side_by_side
    finally:
        sys.path.pop(0)
    wave_BS = torch.from_numpy(speech[:64_000])[None]
    for stats, atol in (((-5.0, 3.0), 1e-5), ((-5.5, 4.0), 2e-3)):
        models = [
            ByolsModel(ByolsConfig(width=width, channels=channels)).eval() for width, channels in ((16, 4), (24, 6))
        ]
        for model, own in zip(models, ((-5.0, 3.0), stats), strict=True):
            model.mel_stats.copy_(torch.tensor(own))
            for norm in (layer for layer in model.encoder.features if isinstance(layer, BatchNorm)):
                torch.nn.init.normal_(norm.running_mean, 0, 0.1)
                torch.nn.init.uniform_(norm.bias, -0.1, 0.1)
        with torch.no_grad():
            expected = torch.cat([model(model.mels(wave_BS)) for model in models], dim=1)
            joined = side_by_side(*models)
            torch.testing.assert_close(joined(joined.mels(wave_BS)), expected, atol=atol, rtol=0)


def test_the_shipped_weights_are_the_published_ones(tmp_path):
    """To the last bit, and the authors' file of them opens as the same model."""
    shipped = speechssl.load("byol-s").model
    state, digest = shipped.encoder.state_dict(), hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].contiguous().numpy().tobytes())
    assert (
        digest.hexdigest() == "8d8eb034beee828f4f47404a023cf64ee55b56a821bc47c720541269a1fc9ce9"
    )  # of the published file
    torch.save(state, tmp_path / "byols_audiontt2020_d512.pth")
    published = families.build(read(tmp_path / "byols_audiontt2020_d512.pth"))
    np.testing.assert_allclose(published.mel_stats, CREMA_D_STATS)
    assert all(value.equal(published.state_dict()[key]) for key, value in shipped.state_dict().items())


FILES = {
    "AudioNTT2020-BYOLA-64x96d512.pth": ("audiontt2020", "librosa", "mean+max"),
    "default512_BYOLAs64x96-2107281850-e100-bs256-lr0003-rs42.pth": ("audiontt2020", "byol-s", "mean+max"),
    "AudioNTT2022-BYOLA-64x96d3072.pth": ("audiontt2022", "nnaudio", "mean+max"),
    "cvt_s1-d1-e64_s2-d1-e256_s3-d1-e512_BYOLAs64x96-2107301623-e100-bs256-lr0003-rs42.pth": (
        "cvt",
        "byol-s",
        "mean+max",
    ),
    "cvt_s1-d1-e64_s2-d1-e256_s3-d1-e512_BYOLAs64x96-2107021643-e100-bs512-lr0003-rs42.pth": ("cvt", "byol-s", "mean"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_gets_the_front_end_that_it_was_trained_on(name, tmp_path):
    encoder, frontend, pool = FILES[name]
    width = 3072 if encoder == "audiontt2022" else 512
    torch.save(ByolsModel(ByolsConfig(encoder=encoder, width=width)).encoder.state_dict(), tmp_path / name)
    opened = read(tmp_path / name)
    assert (opened.config.frontend, opened.config.pool) == (frontend, pool)
    assert (float(opened.state["mel_stats"][0]) < -8) == (frontend != "byol-s")


def tiny(kind: str) -> SpeechModel:
    """A tiny random model of a kind."""
    return SpeechModel(ByolsModel(ByolsConfig(**TINY[kind])).eval(), None, {}, kind)


@pytest.mark.parametrize("kind", TINY)
def test_an_embedding_does_not_depend_on_other_clips(kind, speech):
    model, clips = tiny(kind), [speech[:9000], 0.01 * speech[9000:30000], speech[30000:40000]]
    together = embed_waves(model, clips, layer="last", pool="model")
    for clip, vector in zip(clips, together, strict=True):
        np.testing.assert_array_equal(embed_waves(model, [clip], layer="last", pool="model")[0], vector)
        np.testing.assert_allclose(model.embed(clip), vector, atol=1e-5)
        with torch.no_grad():
            network = model.model
            np.testing.assert_allclose(network(network.mels(torch.from_numpy(clip)[None]))[0], vector, atol=1e-5)


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


@pytest.mark.parametrize("kind", TINY)
def test_ten_minutes_have_a_finite_embedding(kind, speech):
    vector = tiny(kind).embed(np.resize(speech, 600 * 16_000))
    assert np.isfinite(vector).all() and vector.std() > 0


@pytest.mark.parametrize("extra", [0, 100, 1279, 1281, 9_000])
@pytest.mark.parametrize("kind", ["audiontt2020", "audiontt2022"])
def test_windows_of_a_long_clip_change_nothing(kind, extra, speech, monkeypatch):
    """Convolutions see 0.2 s at most, so that frames with two seconds of context are those of the whole."""
    monkeypatch.setattr(embed, "LONGEST", 3.04 if kind == "audiontt2020" else 3.0)
    model, wave_S = tiny(kind), speech[: 2 * round(16_000 * embed.LONGEST) // 1280 * 1280 + extra]
    whole_TD = model.hidden_states([wave_S])[0][0].numpy()
    np.testing.assert_allclose(model.embed(wave_S, pool="none"), whole_TD, atol=1e-5)
    np.testing.assert_allclose(model.embed(wave_S), whole_TD.mean(0) + whole_TD.max(0), atol=1e-5)


@pytest.mark.parametrize("kind", ["cvt", "resnetish34"])
def test_windows_of_a_long_clip_keep_every_frame(kind, speech, monkeypatch):
    """CvT attends to all that it is given, so that its frames differ a little."""
    monkeypatch.setattr(embed, "LONGEST", 3.0)
    model = tiny(kind) if kind in TINY else SpeechModel(ByolsModel(ByolsConfig(encoder=kind)).eval(), None, {}, kind)
    wave_S = speech[: 16_000 * 8]
    whole_TD, cut_TD = model.hidden_states([wave_S])[0][0].numpy(), model.embed(wave_S, pool="none")
    assert cut_TD.shape == whole_TD.shape
    assert np.abs(cut_TD - whole_TD).mean() < 0.05 * whole_TD.std()


def test_sixteen_bits_give_nearly_the_same(speech):
    exact, rounded = speechssl.load("byol-s"), speechssl.load("byol-s", precision="bf16")
    gap = np.abs(exact.embed(speech[:32_000]) - rounded.embed(speech[:32_000]))
    assert 0 < gap.max() < 0.05 * np.abs(exact.embed(speech[:32_000])).max()


def test_save_and_load(tmp_path):
    model = tiny("cvt").model
    model.mel_stats.copy_(torch.tensor([-5.0, 3.0]))
    families.save(tmp_path / "a", model, None, {"steps": 3})
    speechssl.load(tmp_path / "a").save(tmp_path / "b")
    again = speechssl.load(tmp_path / "b")
    assert again.config == model.config
    assert again.config_json["speechssl"] == {"steps": 3}
    assert all(value.equal(model.state_dict()[key]) for key, value in again.model.state_dict().items())


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(InputError, match="encoder = 'vit' is not one of audiontt2020"):
        ByolsConfig(encoder="vit")  # type: ignore[arg-type]
    (tmp_path / "x.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x.pth cannot be read as a checkpoint: it is not a file of torch.save"):
        speechssl.load(tmp_path / "x.pth")
    torch.save({"fc.3.weight": torch.zeros(4, 4)}, tmp_path / "y.pth")
    with pytest.raises(InputError, match=r"y.pth is not a published BYOL-S state dict .*features.0.weight"):
        speechssl.load(tmp_path / "y.pth")
    with pytest.raises(InputError, match="byol-s is a BYOL-S model, without adapters for languages such as 'fra'"):
        speechssl.load("byol-s@fra")
    with pytest.raises(InputError, match="has no CTC head"):
        speechssl.load("byol-s").log_probs([np.zeros(16000, np.float32)])


def test_a_file_as_published_opens(tmp_path, speech):
    """Of every encoder, its sizes read off its tensors; and it is saved as speechssl's own folder."""
    for kind, stats in {"audiontt2020": CREMA_D_STATS, "audiontt2022": SLANEY_STATS}.items():
        model = ByolsModel(ByolsConfig(**TINY[kind], frontend="nnaudio" if kind == "audiontt2022" else "byol-s")).eval()
        torch.save(model.encoder.state_dict(), tmp_path / f"{kind}.pth")
        model.mel_stats.copy_(torch.tensor(stats))
        opened = speechssl.load(tmp_path / f"{kind}.pth")
        assert opened.config == model.config
        wave_S = speech[:20_000]
        assert opened.hidden_states([wave_S])[0].equal(SpeechModel(model, None, {}, kind).hidden_states([wave_S])[0])
        opened.save(tmp_path / kind)
        assert (
            speechssl.load(tmp_path / kind).config_json["speechssl"]["origin"].startswith(f"{kind}.pth as its authors")
        )


def test_a_folder_whose_files_do_not_fit_is_refused(tmp_path):
    families.save(tmp_path, tiny("audiontt2020").model, None, {})
    raw = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(raw.replace('"width": 16', '"width": 1000000000'))
    with pytest.raises(InputError, match=r"does not fit its config.json: encoder.fc.0.weight has shape \(16, 32\)"):
        speechssl.load(tmp_path)
    (tmp_path / "config.json").write_text(raw.replace('"width": 16', '"width": "wide"'))
    with pytest.raises(InputError, match=r"config.json cannot be used: it: width = 'wide' must be"):
        speechssl.load(tmp_path)


def test_what_only_wav2vec2_can_do_is_refused_in_one_sentence(tmp_path, capsys):
    for argv in (
        ["convert", "byol-s", tmp_path / "x", "--to", "fairseq"],
        ["export", "byol-s", tmp_path / "x", "--to", "torch"],
    ):
        said = refused(capsys, *argv)
        assert f"byol-s is a byol-s model, and {argv[0]}" in said and "needs one of: wav2vec2, hubert," in said
        assert not (tmp_path / "x").exists()


def test_info(capsys):
    cli.main(["info", "byol-s"])
    text = capsys.readouterr().out
    for part in ("family      byol-s", "parameters  ", "encoder audiontt2020", "12.5 Hz", "head        none", "MIT"):
        assert part in text, text


def test_s3prl_has_its_frames(speech):
    from speechssl.interop.s3prl import UpstreamExpert

    upstream, waves = UpstreamExpert("byol-s"), [torch.from_numpy(speech[:16_000]), torch.from_numpy(speech[:9_000])]
    (frames_BTD,) = upstream(waves)["hidden_states"]
    expected_TD = speechssl.load("byol-s").hidden_states([speech[:9_000]])[0][0]
    torch.testing.assert_close(frames_BTD[1, : len(expected_TD)].detach(), expected_TD)
    assert upstream.get_downsample_rates() == 1280 and not frames_BTD[1, len(expected_TD) :].any()
    frames_BTD.sum().backward()
    assert upstream.model.encoder.fc[0].weight.grad is not None
