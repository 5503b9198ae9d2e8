"""A loaded model as users hold it."""

import numpy as np
import pytest
import torch

import speechssl
from speechssl.core.errors import InputError
from tests.conftest import CLIP


def test_every_kind_of_source_gives_the_same(pretrained_folder, clip):
    model = speechssl.load(pretrained_folder)
    with open(CLIP, "rb") as file:
        data = CLIP.read_bytes()
        arrays = (
            clip,
            torch.from_numpy(clip),
            np.stack([clip, clip], axis=1),
            {"array": clip, "sampling_rate": 16_000},
        )
        sources = (CLIP, str(CLIP), file, data, {"bytes": data, "path": None}, *arrays)
        first, *others = [model.embed(source) for source in sources]
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)
    assert first.shape == (model.config.hidden_size,)


def test_rows_are_utterances_and_columns_are_channels(pretrained_folder, speech):
    """A batch is never mixed, whatever its size; channels never become utterances."""
    model = speechssl.load(pretrained_folder)
    waves = [speech[i * 20_000 :][:20_000] for i in range(9)]
    alone = [model.embed(wave_S) for wave_S in waves]
    for size in (1, 2, 9):
        for batch in (np.stack(waves[:size]), torch.from_numpy(np.stack(waves[:size])), waves[:size]):
            np.testing.assert_allclose(model.embed(batch), np.stack(alone[:size]), atol=1e-6)
    mixed = model.embed((waves[0] + waves[1]) / 2)
    stereo_S2 = np.stack(waves[:2], axis=1)
    np.testing.assert_allclose(model.embed(stereo_S2), mixed, atol=1e-5)
    np.testing.assert_allclose(model.embed({"array": stereo_S2.T, "sampling_rate": 16_000}), mixed, atol=1e-5)
    np.testing.assert_allclose(model.embed(stereo_S2, channel="each"), np.stack(alone[:2]), atol=1e-6)
    np.testing.assert_allclose(model.embed([CLIP, waves[0], CLIP.read_bytes()])[1], alone[0], atol=1e-6)
    frames = model.embed([waves[0], waves[1][:9_000]], pool="none")
    assert [len(frames_TD) for frames_TD in frames] == [model.config.geometry.frames(n) for n in (20_000, 9_000)]
    with pytest.raises(InputError, match="give a pair"):
        model.embed((waves[0], 16_000))


def test_columns_of_tables_generators_and_dicts_of_other_libraries_are_understood(pretrained_folder, speech):
    model = speechssl.load(pretrained_folder)
    waves = [speech[i * 20_000 :][:20_000] for i in range(2)]
    alone = np.stack([model.embed(wave_S) for wave_S in waves])
    for batch in (
        (wave_S for wave_S in waves),
        [{"raw": wave_S, "sampling_rate": 16_000} for wave_S in waves],
        [{"waveform": torch.from_numpy(wave_S[None]), "sample_rate": 16_000} for wave_S in waves],
    ):
        np.testing.assert_allclose(model.embed(batch), alone, atol=1e-6)
    paths = np.array([str(CLIP), str(CLIP)])
    for column in (paths, paths.astype(object)):
        np.testing.assert_allclose(model.embed(column), np.stack([model.embed(CLIP)] * 2), atol=1e-6)
    with pytest.raises(InputError, match="an empty list holds no audio"):
        model.embed([])


def test_hidden_states_have_a_row_per_frame_and_layer(pretrained_folder, clip):
    model = speechssl.load(pretrained_folder)
    states = model.hidden_states([clip, clip[:8000]])
    layers = model.config.num_hidden_layers + 1
    assert [tuple(s.shape[:2]) for s in states] == [
        (layers, model.config.geometry.frames(n)) for n in (len(clip), 8000)
    ]
    assert model.frame_rate == 50


def test_save_and_load_again(ctc_folder, clip, tmp_path):
    model = speechssl.load(ctc_folder)
    model.save(tmp_path)
    again = speechssl.load(tmp_path)
    assert again.tokenizer.vocab == model.tokenizer.vocab
    assert torch.equal(again.log_probs([clip])[0], model.log_probs([clip])[0])


def test_the_shipped_model_opens_by_its_name(clip, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert np.isfinite(speechssl.load("small").embed(clip)).all()


@pytest.mark.parametrize(
    "source, device, complaint",
    [
        ("no/such/run", "cpu", "no/such/run does not exist; .*ships with speechssl: byol-s, byol-s-wide, small"),
        (CLIP, "cpu", "flac is audio, not a model; the model comes first"),
        ("small", "gpu", "there is no device 'gpu'; this machine has cpu"),
        ("small", "cuda:99", "there is no device 'cuda:99'"),
    ],
    ids=str,
)
def test_what_cannot_be_opened(source, device, complaint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=complaint):
        speechssl.load(source, device=device)


def test_names_that_do_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        speechssl.laod  # noqa: B018


def test_bf16_is_float32_but_for_rounding(clip):
    exact, rounded = (speechssl.load("small", precision=precision) for precision in ("float32", "bf16"))
    a, b = (model.embed(clip, layer="all") for model in (exact, rounded))
    assert b.dtype == np.float32 and not np.array_equal(a, b)
    assert np.linalg.norm(a - b) < 0.03 * np.linalg.norm(a)
    with pytest.raises(InputError, match="precision = 'half' is not known; use one of float32, bf16"):
        speechssl.load("small", precision="half")
