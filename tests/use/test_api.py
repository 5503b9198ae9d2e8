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
        sources = (CLIP, str(CLIP), file, clip, torch.from_numpy(clip), np.stack([clip, clip]))
        first, *others = [model.embed(source) for source in sources]
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)
    assert first.shape == (model.config.hidden_size,)


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
        (CLIP, "cpu", "flac cannot be read as a checkpoint: it is not a file of torch.save"),
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
