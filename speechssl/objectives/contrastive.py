"""The contrastive loss of wav2vec 2.0 as a matrix product, and noise that belongs to an utterance."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(context_MD: Tensor, target_MD: Tensor, codes_MG: Tensor, counts_MM: Tensor, temperature: float):
    """InfoNCE of one utterance (equation 3) as one matrix product: -> (loss sum, number of frames told apart).

    context_MD, target_MD: projected context and quantised target of its M masked frames. counts_MM: multiplicity of each
    distractor. A distractor with the positive's own codes is no distractor (minus infinity in the reference).
    """
    scores_MM = F.normalize(context_MD, dim=1) @ F.normalize(target_MD, dim=1).T / temperature
    same_MM = (codes_MG[:, None] == codes_MG[None]).all(dim=-1)
    weights_MM = counts_MM.to(scores_MM.dtype).masked_fill(same_MM, 0.0)
    positive_M = scores_MM.diagonal()
    candidates_MM = scores_MM + weights_MM.clone().fill_diagonal_(1.0).log()
    best_M = scores_MM.detach().masked_fill(weights_MM == 0, -torch.inf).amax(dim=1)
    loss = torch.logsumexp(candidates_MM, dim=1) - positive_M
    return loss.sum(), (positive_M.detach() > best_M).sum()


def upcast(x: Tensor) -> Tensor:
    """To float32, unless it is float64: the quantizer, the similarities and the losses are never computed in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gumbel_noise(keys: Sequence[int], counts: Sequence[int], shape: tuple[int, int], device: torch.device) -> Tensor:
    """Gumbel noise (M, G, V), drawn per utterance from its own key, so that no batch mate changes it."""
    pieces = []
    for key, masked in zip(keys, counts, strict=True):
        generator = torch.Generator(device).manual_seed(key)
        pieces.append(torch.empty(masked, *shape, device=device).exponential_(generator=generator))
    return -torch.cat(pieces).clamp_min(torch.finfo(torch.float32).tiny).log()


def keyed_dropout(x_MC: Tensor, prob: float, keys: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Dropout whose mask belongs to the utterance, so that the statistics of a whole update can be gathered beforehand."""
    if prob == 0:
        return x_MC
    pieces = []
    for key, masked in zip(keys, counts, strict=True):
        generator = torch.Generator(x_MC.device).manual_seed(key ^ 1)
        pieces.append(torch.rand(masked, x_MC.shape[1], device=x_MC.device, generator=generator))
    return x_MC * (torch.cat(pieces) >= prob) / (1 - prob)
