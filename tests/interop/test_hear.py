"""HEAR's rules: sizes, float32, timestamps in milliseconds; BYOL-S as published but for the bugs."""

import numpy as np
import pytest
import torch

from speechssl.interop.hear import get_scene_embeddings, get_timestamp_embeddings, load_model
from tests.models.byols_reference import SHARED, needs_shared


@pytest.mark.parametrize("name, size, step", [("byol-s", 512, 50.0), ("small", 256, 20.0)])
def test_the_api_as_hears_validator_checks_it(name, size, step, speech):
    model = load_model(name)
    assert isinstance(model, torch.nn.Module)
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (16000, size, size)
    audio_BS = torch.from_numpy(speech[:64000]).view(2, -1)
    scenes_BD = get_scene_embeddings(audio_BS, model)
    assert (scenes_BD.shape, scenes_BD.dtype) == ((2, size), torch.float32)
    torch.testing.assert_close(get_scene_embeddings(audio_BS[1:], model), scenes_BD[1:])
    frames_BTD, times_BT = get_timestamp_embeddings(audio_BS, model)
    assert (frames_BTD.dtype, times_BT.dtype) == (torch.float32, torch.float32)
    assert frames_BTD.shape == (*times_BT.shape, size)
    assert times_BT.diff().allclose(torch.tensor(step))
    assert float(times_BT.min()) >= 0 and 1900 < float(times_BT.max()) <= 2000


@needs_shared
def test_timestamps_equal_the_public_ones_without_their_division():
    """The public code normalises by the call's own windows; given these numbers, ours is the same."""
    wave_1S = torch.from_numpy(np.load(SHARED / "signals.npz")["a"])[None]
    theirs = np.load(SHARED / "audiontt512_byols_serab.npz")
    model = load_model("byol-s")
    windows = torch.nn.functional.pad(wave_1S[0], (8000, 8000)).unfold(0, 16000, 800)
    mels = model.model.frontend(windows)
    model.model.mel_stats.copy_(torch.stack([mels.mean(), mels.std()]))
    frames_BTD, times_BT = get_timestamp_embeddings(wave_1S, model)
    np.testing.assert_allclose(frames_BTD[0], theirs["timestamp_fixed_a"], atol=2e-4)
    np.testing.assert_allclose(times_BT[0], theirs["timestamps_ms"])
