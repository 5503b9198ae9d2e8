"""Any speechssl model behind the HEAR 2021 API: `load_model`, `get_scene_embeddings`, `get_timestamp_embeddings`.

Timestamps are in milliseconds. Nothing depends on the other sounds of a call: normalisation is the model's own.
"""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.api import SpeechModel, load
from speechssl.audio import SAMPLE_RATE
from speechssl.models.byols import ByolsModel

WINDOW, HOP = SAMPLE_RATE, SAMPLE_RATE // 20  # BYOL-S timestamps: windows of 1 s every 50 ms, as in its own HEAR module
AT_ONCE = 256  # windows embedded together


class HearModel(nn.Module):
    """What HEAR's tools pass around; `loaded` is the speechssl model."""

    sample_rate = SAMPLE_RATE

    def __init__(self, loaded: SpeechModel) -> None:
        super().__init__()
        self.loaded = loaded
        self.network: Any = loaded.model  # registered, so that .to(device) moves it

    @cached_property
    def scene_embedding_size(self) -> int:
        """Numbers per sound."""
        return scene_embeddings(self, torch.zeros(1, SAMPLE_RATE)).shape[1]

    @cached_property
    def timestamp_embedding_size(self) -> int:
        """Numbers per timestamp: the same."""
        return self.scene_embedding_size


def load_model(model_file_path: str = "byol-s") -> HearModel:
    """A run, a model folder, a shipped name or a published BYOL-S file."""
    return HearModel(load(model_file_path or "byol-s"))


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """(B, S) at 16 kHz -> (B, D) float32, on the audio's device."""
    return scene_embeddings(model, audio).to(audio.device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """(B, S) at 16 kHz -> embeddings (B, T, D) and timestamps (B, T) in milliseconds, both float32, on the audio's device.

    wav2vec 2.0: the last layer's frames, at the centres of their receptive fields. BYOL-S: windows of one second every
    50 ms, at their centres, the sound padded with half a window of zeros on both sides.
    """
    found = [timestamps(model, wave_S) for wave_S in audio]
    embeddings_BTD = torch.stack([vectors_TD for vectors_TD, _ in found])
    times_BT = torch.stack([times_T for _, times_T in found])
    return embeddings_BTD.to(audio.device), times_BT.to(audio.device)


@torch.inference_mode()
def scene_embeddings(model: HearModel, audio_BS: Tensor) -> Tensor:
    """One vector per sound, each sound by itself."""
    loaded = model.loaded
    return torch.stack(
        [loaded.pool(loaded.hidden_states([wave_S.cpu().numpy()])[0])[-1].float() for wave_S in audio_BS]
    )


@torch.inference_mode()
def timestamps(model: HearModel, wave_S: Tensor) -> tuple[Tensor, Tensor]:
    """One sound (S,) -> (T, D) and (T,) in milliseconds."""
    loaded = model.loaded
    if isinstance(loaded.model, ByolsModel):
        wave_S = wave_S.to(loaded.device, torch.float32)
        windows_TS = F.pad(wave_S, (WINDOW // 2, WINDOW // 2)).unfold(0, WINDOW, HOP)
        pieces = [loaded.model(loaded.model.mels(piece_TS)) for piece_TS in windows_TS.split(AT_ONCE)]
        vectors_TD, first, hop = torch.cat(pieces).float().cpu(), 0.0, HOP
    else:
        vectors_TD = loaded.hidden_states([wave_S.cpu().numpy()])[0][-1]
        first, hop = (loaded.config.geometry.receptive_field - 1) / 2, loaded.config.geometry.hop
    times_T = (first + hop * torch.arange(len(vectors_TD), dtype=torch.float64)) * 1000 / SAMPLE_RATE
    return vectors_TD, times_T.float()
