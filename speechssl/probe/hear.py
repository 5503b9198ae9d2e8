"""The HEAR benchmark's API (Turian et al. 2022): load_model, get_scene_embeddings, get_timestamp_embeddings.

`python -m heareval.embeddings.runner speechssl.probe.hear --model runs/mine` runs the benchmark on any model that opens.
"""

import torch
from torch import Tensor, nn

from speechssl.errors import InputError
from speechssl.interop.checkpoint import build
from speechssl.interop.source import read
from speechssl.packed import pack, segments

SAMPLE_RATE = 16_000


class Hear(nn.Module):
    """A loaded model with the attributes that HEAR asks for; embeddings are the last hidden state."""

    sample_rate = SAMPLE_RATE

    def __init__(self, path: str) -> None:
        super().__init__()
        self.model = build(read(path))
        self.config = self.model.config
        self.scene_embedding_size = self.timestamp_embedding_size = self.config.hidden_size

    @torch.no_grad()
    def forward(self, audio_BS: Tensor) -> Tensor:
        """(B, S) at 16 kHz -> (B, T, D)."""
        if audio_BS.ndim != 2:
            raise InputError(f"audio of shape {tuple(audio_BS.shape)} is not (sounds, samples)")
        batch = pack(list(audio_BS.cpu()), self.config.geometry, normalise=self.config.do_normalize)
        states_TD = self.model.wav2vec2(batch.to(audio_BS.device)).states[-1]
        return torch.stack([states_TD[rows] for rows in segments(batch.frames)])


def load_model(model_file_path: str = "small") -> Hear:
    """Any model that speechssl opens, ready for the two functions below."""
    return Hear(model_file_path).eval()


def get_scene_embeddings(audio: Tensor, model: Hear) -> Tensor:
    """One vector per sound: (B, S) -> (B, D), the mean over time."""
    return model(audio).mean(dim=1)


def get_timestamp_embeddings(audio: Tensor, model: Hear) -> tuple[Tensor, Tensor]:
    """One vector per frame, (B, T, D), and the centre of each frame in milliseconds, (B, T)."""
    frames_BTD = model(audio)
    geometry = model.config.geometry
    centre_T = torch.arange(frames_BTD.shape[1]) * geometry.hop + geometry.receptive_field / 2
    times_BT = (centre_T * 1000 / SAMPLE_RATE).expand(len(audio), -1)
    return frames_BTD, times_BT.to(frames_BTD.device)
