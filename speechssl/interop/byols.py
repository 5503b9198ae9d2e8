"""The weights of BYOL-S and BYOL-A as their authors published them (.pth)."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.models.byols.model import ByolsConfig
from speechssl.models.checkpoint import Checkpoint
from speechssl.sound.features import FlavourName

CREMA_D_STATS = (-4.99372816, 3.13660264)  # SERAB's, the only ones published with these weights
SLANEY_STATS = (
    -8.32,
    3.08,
)  # those, moved as one utterance of each of 84 LibriSpeech speakers moves (-3.33; times 0.982)
BYOL_A_BATCHES = 1_534_402  # counted by the batch norms of BYOL-A's files
MARKS = ("layers.0.0.weight", "layer1.0.conv1.weight", "fc.3.weight")  # of a published CvT, ResNetish, AudioNTT


def recognised(named: dict[str, Any]) -> bool:
    """Whether a file's content is a state dict as published."""
    return any(isinstance(named.get(mark), Tensor) for mark in MARKS)


def read_published(path: Path, named: dict[str, Any]) -> Checkpoint:
    """A state dict as the authors of BYOL-S or BYOL-A published it: sizes by its shapes, log-mel flavour by its origin.

    No published file holds the mean and standard deviation of its log-mels: BYOL-S's get SERAB's for CREMA-D, BYOL-A's
    the same moved to their mel scale.
    """
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    state = {f"encoder.{key}": value for key, value in tensors.items()}
    frontend = published_frontend(path.name, tensors)
    stats = CREMA_D_STATS if frontend == "byol-s" else SLANEY_STATS
    try:
        config = ByolsConfig(frontend=frontend, **published_sizes(path.name, tensors))
    except (KeyError, TypeError, IndexError, InputError) as error:
        raise InputError(
            f"{path} is not a published BYOL-S state dict ({error}); give a model folder instead"
        ) from None
    heard = f"front-end {frontend}, log-mel statistics {stats[0]:.4f}, {stats[1]:.4f}"
    origin = f"{path.name} as its authors published it; {heard}"
    state |= {"mel_stats": torch.tensor(stats)}
    return Checkpoint(config=config, state=state, raw={"speechssl": {"origin": origin}}, source=str(path))


def published_frontend(name: str, state: dict[str, Tensor]) -> FlavourName:
    """BYOL-A's second version was trained on nnAudio's log-mels, its first on librosa's, BYOL-S on torchaudio's."""
    if "features.0.weight" in state and "features.8.weight" not in state:
        return "nnaudio"
    heard = state.get("features.1.num_batches_tracked")
    first = re.search("BYOLA-", name) or (heard is not None and int(heard) == BYOL_A_BATCHES)
    return "librosa" if first else "byol-s"


def published_sizes(name: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """The architecture that a published state dict belongs to. Only the names tell the two CvT of 64-256-512 apart: that
    trained in batches of 512 takes the mean over time."""
    if "layers.0.0.weight" in state:
        dims = tuple(len(state[f"layers.{i}.0.weight"]) for i in range(3))
        return {
            "encoder": "cvt",
            "dims": dims,
            "pool": "mean+max" if dims == (64, 256, 512) and "bs512" not in name else "mean",
        }
    if "layer1.0.conv1.weight" in state:
        return {"encoder": "resnetish34"}
    width, channels = len(state["fc.3.weight"]), len(state["features.0.weight"])
    if "features.8.weight" in state:
        return {"encoder": "audiontt2020", "width": width, "channels": channels}
    return {"encoder": "audiontt2022", "width": width + state["fc.0.weight"].shape[1], "channels": channels}
