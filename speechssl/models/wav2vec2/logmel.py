"""The input of w2v-BERT 2.0: Kaldi's log-mels, normalised per utterance, two frames in one (SeamlessM4TFeatureExtractor)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.packed import Packed, starts

SHIFT, WINDOW, BANDS = 160, 400, 80  # samples, samples, mel bands


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


def log_mel_pairs(wave_S: Tensor) -> Tensor:
    """(S,) at 16 kHz -> (T, 160): each band of the utterance at zero mean and unit variance."""
    from torchaudio.compliance.kaldi import fbank

    scaled_1S = wave_S.double()[None] * 2**15  # the range of 16-bit samples, for which Kaldi's floor is made
    mel_TF = fbank(scaled_1S, num_mel_bins=BANDS, window_type="povey", dither=0.0)
    centred_TF = mel_TF - mel_TF.mean(dim=0)
    variance_F = centred_TF.square().sum(dim=0) / max(1, len(mel_TF) - 1)
    normed_TF = (centred_TF / (variance_F + 1e-7).sqrt()).float()
    return F.pad(normed_TF, (0, 0, 0, len(normed_TF) % 2)).reshape(-1, 2 * BANDS)
