"""HEAR's rules: sizes, float32, timestamps in milliseconds; BYOL-S as published but for the bugs."""

import numpy as np
import pytest
import torch

from speechssl.interop.hear import get_scene_embeddings, get_timestamp_embeddings, load_model
from tests.models.byols_reference import REFERENCE


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


def test_timestamps_equal_the_public_ones_without_their_division():
    """The public code normalises by the call's own windows; given these numbers, ours is the same."""
    model = load_model("byol-s")
    model.model.mel_stats.copy_(torch.from_numpy(REFERENCE["hear_stats"]))
    frames_BTD, times_BT = get_timestamp_embeddings(torch.from_numpy(REFERENCE["signal_a"])[None], model)
    whole = len(REFERENCE["hear_frames"])  # the later windows reach beyond the half of the signal that is kept
    np.testing.assert_allclose(frames_BTD[0, :whole, ::4], REFERENCE["hear_frames"], atol=2e-4)
    np.testing.assert_allclose(times_BT[0, :whole], REFERENCE["hear_times"])
