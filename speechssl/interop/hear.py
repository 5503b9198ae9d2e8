"""The HEAR benchmark's API (Turian et al. 2022): load_model, get_scene_embeddings, get_timestamp_embeddings.

`python -m heareval.embeddings.runner speechssl.interop.hear --model runs/mine` runs the benchmark on any model that opens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.core.packed import pack, segments
from speechssl.interop.source import read
from speechssl.models.byols.model import ByolsModel
from speechssl.models.checkpoint import build

SAMPLE_RATE = 16_000
WINDOW, HOP = SAMPLE_RATE, SAMPLE_RATE // 20  # BYOL-S timestamps: windows of 1 s every 50 ms, as in its own HEAR module
AT_ONCE = 256  # windows embedded together


class Hear(nn.Module):
    """A loaded model with the attributes that HEAR asks for; embeddings are the last hidden state."""

    sample_rate = SAMPLE_RATE

    def __init__(self, path: str) -> None:
        super().__init__()
        self.model = build(read(path))
        self.config = self.model.config
        width = self.model.encoder.width if isinstance(self.model, ByolsModel) else self.config.hidden_size
        self.scene_embedding_size = self.timestamp_embedding_size = width

    @torch.no_grad()
    def forward(self, audio_BS: Tensor) -> Tensor:
        """(B, S) at 16 kHz -> (B, T, D)."""
        if audio_BS.ndim != 2:
            raise InputError(f"audio of shape {tuple(audio_BS.shape)} is not (sounds, samples)")
        if isinstance(self.model, ByolsModel):
            return torch.cat(self.model.hidden_states(list(audio_BS))).float()
        batch = pack(list(audio_BS.cpu()), self.config.geometry, normalise=self.config.do_normalize)
        states_TD = self.model.wav2vec2(batch.to(audio_BS.device)).states[-1]
        return torch.stack([states_TD[rows] for rows in segments(batch.frames)])


def load_model(model_file_path: str = "small") -> Hear:
    """Any model that speechssl opens, ready for the two functions below; HEAR's runner gives "" for the default."""
    return Hear(model_file_path or "small").eval()


def get_scene_embeddings(audio: Tensor, model: Hear) -> Tensor:
    """One vector per sound: (B, S) -> (B, D), the mean over time, of BYOL-S as its authors pool."""
    frames_BTD = model(audio)
    return model.model.pool(frames_BTD) if isinstance(model.model, ByolsModel) else frames_BTD.mean(dim=1)


def get_timestamp_embeddings(audio: Tensor, model: Hear) -> tuple[Tensor, Tensor]:
    """One vector per frame, (B, T, D), and the centre of each frame in milliseconds, (B, T).

    BYOL-S's frames here are windows of one second every 50 ms, the sound padded with half a window of zeros on both sides.
    """
    if isinstance(model.model, ByolsModel):
        frames_BTD, first, hop = window_embeddings(audio, model.model), 0.0, HOP
    else:
        geometry = model.config.geometry
        frames_BTD, first, hop = model(audio), geometry.receptive_field / 2, geometry.hop
    centre_T = torch.arange(frames_BTD.shape[1]) * hop + first
    times_BT = (centre_T * 1000 / SAMPLE_RATE).expand(len(audio), -1)
    return frames_BTD, times_BT.to(frames_BTD.device)


@torch.no_grad()
def window_embeddings(audio_BS: Tensor, model: ByolsModel) -> Tensor:
    """(B, S) at 16 kHz -> (B, windows, D), each window by itself."""
    sounds = F.pad(audio_BS.float(), (WINDOW // 2, WINDOW // 2)).unfold(1, WINDOW, HOP)  # (B, windows, S), a view
    return torch.stack(
        [torch.cat([model(model.mels(piece_TS)) for piece_TS in windows_TS.split(AT_ONCE)]) for windows_TS in sounds]
    )
