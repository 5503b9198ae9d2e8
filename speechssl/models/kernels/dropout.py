"""Dropout with a cheap mask on the CPU, where torch spends a quarter of a training step on one random number per element."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 2**16  # probabilities are multiples of 1 / STEPS


def keep_mask(x: Tensor, prob: float) -> Tensor:
    """Zeros with probability `prob`, else ones, in the shape and type of `x`, on the CPU.

    Each 64-bit number from torch's generator serves four elements.
    """
    bits_N = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    limit = round(prob * STEPS) - STEPS // 2
    return torch.ge(bits_N[: x.numel()].view(x.shape), limit, out=x.new_empty(x.shape))


def dropout(x: Tensor, prob: float) -> Tensor:
    """`x` with elements set to zero with probability `prob`, the others scaled up so that the mean stays."""
    if x.device.type != "cpu" or prob == 0:
        return F.dropout(x, prob)
    return x * keep_mask(x, prob) * (1 / (1 - prob))


class Dropout(nn.Dropout):
    """nn.Dropout with the mask above."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity in evaluation."""
        return dropout(x, self.p) if self.training else x
