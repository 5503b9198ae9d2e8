"""The product quantizer with Gumbel noise (wav2vec 2.0, section 2, "Quantization module")."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechssl.models.kernels.products import Linear
from speechssl.models.wav2vec2.config import Wav2Vec2Config


class Quantised(NamedTuple):
    """q_MD: quantised vectors. codes_MG: chosen entry of each codebook. probs_MGV: softmax of the logits, without noise."""

    q_MD: Tensor
    codes_MG: Tensor
    probs_MGV: Tensor


class GumbelQuantizer(nn.Module):
    """G codebooks of V entries each; one entry of each is chosen and their vectors are concatenated."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.groups, self.entries = config.num_codevector_groups, config.num_codevectors_per_group
        width = config.codevector_dim // self.groups
        self.codevectors = nn.Parameter(torch.rand(1, self.groups * self.entries, width))
        self.weight_proj = Linear(config.conv_dim[-1], self.groups * self.entries)
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def logits(self, features_MC: Tensor) -> Tensor:
        """(M, C) -> (M, G, V)."""
        return self.weight_proj(features_MC).unflatten(1, (self.groups, self.entries))

    def forward(self, features_MC: Tensor, noise_MGV: Tensor | None, temperature: float) -> Quantised:
        """Choose one entry per group: the largest logit plus `noise_MGV` (Gumbel; None in evaluation).

        Forward is the hard choice; the gradient is that of softmax((logits + noise) / temperature) (straight through).
        """
        logits_MGV = self.logits(features_MC)
        noisy_MGV = logits_MGV if noise_MGV is None else logits_MGV + noise_MGV
        soft_MGV = torch.softmax(noisy_MGV / temperature, dim=-1)
        codes_MG = noisy_MGV.argmax(dim=-1)
        hard_MGV = torch.zeros_like(soft_MGV).scatter_(2, codes_MG[..., None], 1.0)
        choice_MGV = hard_MGV + (soft_MGV - soft_MGV.detach())
        codebook_GVD = self.codevectors.view(self.groups, self.entries, -1)
        q_MD = torch.einsum("mgv,gvd->mgd", choice_MGV, codebook_GVD).flatten(1)
        return Quantised(q_MD, codes_MG, torch.softmax(logits_MGV, dim=-1))


def perplexity(mean_probs_GV: Tensor) -> Tensor:
    """exp(entropy) of each codebook's averaged distribution, summed over the codebooks (section 2, equation 4)."""
    entropy_G = -torch.special.xlogy(mean_probs_GV, mean_probs_GV + 1e-7).sum(dim=-1)
    return entropy_G.exp().sum()
