"""Shared by all tests: real speech from data/, tiny models of both families, deterministic threads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl import audio
from speechssl.models.config import Wav2Vec2Config

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
TINY = dict(
    conv_dim=(32, 32, 32, 32, 32, 32, 32),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    num_codevectors_per_group=16,
    codevector_dim=16,
    proj_codevector_dim=16,
)
QUIET = dict.fromkeys(
    ("feat_proj_dropout", "feat_quantizer_dropout", "hidden_dropout", "attention_dropout", "layerdrop"), 0.0
)
FAMILIES = {
    "group-post": dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False, do_normalize=False),
    "layer-pre": dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, do_normalize=True),
}


def tiny(family: str = "group-post", **changes) -> Wav2Vec2Config:
    """A tiny model of a family, without dropout unless asked for."""
    return Wav2Vec2Config(**(TINY | QUIET | FAMILIES[family] | changes))


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """About a minute of real speech: the unlabeled LibriSpeech clips end to end, 16 kHz float32."""
    clips = sorted((DATA / "librispeech").rglob("*.ogg"))[:8]
    return np.concatenate([audio.load(clip) for clip in clips])


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> str:
    """Both families of the paper."""
    return request.param


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test starts from the same global seed."""
    torch.manual_seed(0)
