"""The HEAR benchmark's API (Turian et al. 2022): load_model, get_scene_embeddings, get_timestamp_embeddings.

`python -m heareval.embeddings.runner speechssl.interop.hear --model runs/mine` runs the benchmark on any model that opens.
"""

import torch
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.interop.source import read
from speechssl.models import families
from speechssl.sound.audio import SAMPLE_RATE


class Hear(nn.Module):
    """A loaded model with the attributes that HEAR asks for; embeddings are the last hidden state."""

    sample_rate = SAMPLE_RATE

    def __init__(self, path: str) -> None:
        super().__init__()
        self.model = families.build(read(path))
        self.scene_embedding_size = self.timestamp_embedding_size = self.model.width

    @torch.no_grad()
    def forward(self, audio_BS: Tensor) -> Tensor:
        """(B, S) at 16 kHz -> (B, T, D)."""
        check(audio_BS)
        last = [self.model.layers - 1]
        return torch.cat(self.model.states(list(audio_BS), last)).float()


def check(audio_BS: Tensor) -> None:
    """InputError unless these are several sounds."""
    if audio_BS.ndim != 2:
        raise InputError(f"audio of shape {tuple(audio_BS.shape)} is not (sounds, samples)")


def load_model(model_file_path: str = "small") -> Hear:
    """Any model that speechssl opens, ready for the two functions below; HEAR's runner gives "" for the default."""
    return Hear(model_file_path or "small").eval()


def get_scene_embeddings(audio: Tensor, model: Hear) -> Tensor:
    """One vector per sound: (B, S) -> (B, D), pooled over time as the model's authors do it."""
    frames_BTD = model(audio)
    return model.model.pool(frames_BTD.mean(dim=1), frames_BTD.amax(dim=1))


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: Hear) -> tuple[Tensor, Tensor]:
    """Frames over time, (B, T, D), and the centre of each in milliseconds, (B, T)."""
    check(audio)
    frames_BTD, centre_T = model.model.timestamps(list(audio))
    times_BT = (centre_T * 1000 / SAMPLE_RATE).expand(len(audio), -1)
    return frames_BTD, times_BT.to(frames_BTD.device)
