"""Log-mel front-ends by name: what a spectrogram model was trained on is part of the model.

All are 64 bands between 60 and 7,800 Hz every 10 ms, natural logarithm of (power + float32's epsilon). They differ in the
window and the mel scale, by 4.6 nats on average, so the wrong one silently ruins an embedding.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_FFT, HOP, BANDS, LOW, HIGH, RATE = 1024, 160, 64, 60.0, 7800.0, 16_000
FlavourName = Literal["byol-s", "byol-a", "librosa", "nnaudio"]


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """window: samples. slaney: Slaney's mel scale and area norm instead of HTK's scale. pad_mode: at the clip's ends."""

    window: int
    slaney: bool
    pad_mode: str


FLAVOURS: dict[str, Flavour] = {
    "byol-s": Flavour(window=400, slaney=False, pad_mode="reflect"),
    "byol-a": Flavour(window=1024, slaney=False, pad_mode="reflect"),
    "librosa": Flavour(window=1024, slaney=True, pad_mode="constant"),  # what BYOL-A's released weights expect
    "nnaudio": Flavour(window=1024, slaney=True, pad_mode="reflect"),  # BYOL-A version 2
}


def filterbank(slaney: bool) -> Tensor:
    """Triangles (N_FFT / 2 + 1, F) from power spectra to mel bands."""
    from torchaudio.functional import melscale_fbanks

    scale, norm = ("slaney", "slaney") if slaney else ("htk", None)
    with torch.device("cpu"):  # models are laid out on the meta device, where the function cannot check its result
        return melscale_fbanks(N_FFT // 2 + 1, LOW, HIGH, BANDS, RATE, norm=norm, mel_scale=scale)


class LogMel(nn.Module):
    """Waves to log-mel spectrograms on the waves' device; `name` is one of FLAVOURS."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.flavour = FLAVOURS[name]
        self.register_buffer("window_S", torch.hann_window(self.flavour.window), persistent=False)
        self.register_buffer("bank_KF", filterbank(self.flavour.slaney), persistent=False)
        self.window_S: Tensor
        self.bank_KF: Tensor

    def forward(self, wave_BS: Tensor) -> Tensor:
        """(B, S) at 16 kHz -> (B, F, T), T = S // 160 + 1, float32; less than half a window is padded with zeros."""
        with torch.autocast(wave_BS.device.type, enabled=False):
            wave_BS = F.pad(wave_BS.float(), (0, max(0, N_FFT // 2 + 1 - wave_BS.shape[1])))
            spectrum_BKT = torch.stft(
                wave_BS,
                N_FFT,
                HOP,
                self.flavour.window,
                self.window_S,
                center=True,
                pad_mode=self.flavour.pad_mode,
                return_complex=True,
            )
            power_BKT = spectrum_BKT.real.square() + spectrum_BKT.imag.square()
            mel_BFT = (power_BKT.mT @ self.bank_KF).mT
            return (mel_BFT + torch.finfo(torch.float32).eps).log()


@cache
def front_end(name: str) -> LogMel:
    """A front-end on the CPU, built once."""
    return LogMel(name)


def log_mel(wave_S: np.ndarray) -> np.ndarray:
    """(S,) at 16 kHz -> (F, T), by BYOL-S's front-end."""
    return front_end("byol-s")(torch.from_numpy(wave_S)[None])[0].numpy()


def log_mel_statistics(wave_S: np.ndarray) -> np.ndarray:
    """(S,) at 16 kHz -> (3 F,): mean, standard deviation and maximum of each mel band over time, the baseline without a
    network."""
    mel_FT = log_mel(wave_S)
    return np.concatenate([mel_FT.mean(axis=1), mel_FT.std(axis=1), mel_FT.max(axis=1)])
