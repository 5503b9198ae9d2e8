"""The input of w2v-BERT 2.0: Kaldi's log-mels, normalised per utterance, two frames in one (SeamlessM4TFeatureExtractor)."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.packed import Packed, starts

RATE, SHIFT, WINDOW, FFT, BANDS = 16_000, 160, 400, 512, 80


class LogMelFrames(nn.Module):
    """Raw samples -> 2 x 80 log-mels every 20 ms; it has no weights."""

    def forward(self, batch: Packed) -> Tensor:
        """Packed stream -> (T, 160): the frames of every utterance, one utterance after the other."""
        hop = 2 * SHIFT
        begins = starts([-(-samples // hop) * hop for samples in batch.samples])
        with torch.autocast(batch.stream_N.device.type, enabled=False):
            waves = (batch.stream_N[at : at + n] for at, n in zip(begins, batch.samples, strict=True))
            return torch.cat([log_mel_pairs(wave_S) for wave_S in waves])

    def whole(self, batch: Packed) -> tuple[int, ...]:
        """How many frames of each utterance are pairs; the second half of an odd last one is empty."""
        return tuple(max(1, ((samples - WINDOW) // SHIFT + 1) // 2) for samples in batch.samples)


@cache
@torch.inference_mode(False)  # made while a model embeds, it would be no use to training
def triangles(device: torch.device) -> Tensor:
    """(257, 80), float64: from power spectra to bands that are equally wide on Kaldi's mel scale, from 20 Hz to 8 kHz. torchaudio
    has them in float32, and the error would show in the last layer's fourth digit."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * (1 + hertz / 700).log()

    low, high = mel(torch.tensor([20.0, RATE / 2], dtype=torch.float64, device=device)).tolist()
    edges_F = torch.linspace(low, high, BANDS + 2, dtype=torch.float64, device=device)
    bins_K1 = mel(torch.arange(FFT // 2 + 1, dtype=torch.float64, device=device) * RATE / FFT)[:, None]
    rising_KF = (bins_K1 - edges_F[:-2]) / (edges_F[1:-1] - edges_F[:-2])
    falling_KF = (edges_F[2:] - bins_K1) / (edges_F[2:] - edges_F[1:-1])
    return torch.minimum(rising_KF, falling_KF).clamp_min(0)


def log_mel(wave_S: Tensor) -> Tensor:
    """(S,) at 16 kHz -> (T, 80), float64, a frame every 10 ms: what Kaldi's fbank gives without dither."""
    scaled_S = wave_S.double() * 2**15  # the range of 16-bit samples, for which Kaldi's floor is made
    frames_TS = scaled_S.unfold(0, WINDOW, SHIFT)
    frames_TS = frames_TS - frames_TS.mean(dim=1, keepdim=True)
    frames_TS = frames_TS - 0.97 * torch.cat([frames_TS[:, :1], frames_TS[:, :-1]], dim=1)  # pre-emphasis
    window_S = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64, device=wave_S.device) ** 0.85
    power_TK = torch.fft.rfft(frames_TS * window_S, FFT).abs().square()
    return (power_TK @ triangles(wave_S.device)).clamp_min(torch.finfo(torch.float32).eps).log()


def log_mel_pairs(wave_S: Tensor) -> Tensor:
    """(S,) at 16 kHz -> (T, 160): each band of the utterance at zero mean and unit variance, two frames beside each other."""
    mel_TF = log_mel(wave_S)
    centred_TF = mel_TF - mel_TF.mean(dim=0)
    variance_F = centred_TF.square().sum(dim=0) / max(1, len(mel_TF) - 1)
    normed_TF = (centred_TF / (variance_F + 1e-7).sqrt()).float()
    return F.pad(normed_TF, (0, 0, 0, len(normed_TF) % 2)).reshape(-1, 2 * BANDS)
