"""Reference numbers of BYOL-S, computed with the public code; of outputs only every third or fourth row and column is kept.

hear_stats is what the public code computes from the whole two seconds of which signal_a is the first half.
"""

from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = np.load(ROOT / "tests" / "references" / "byols.npz")


def formula(state: dict[str, torch.Tensor], offset: int = 0) -> dict[str, torch.Tensor]:
    """Weights as a hash of (key's rank + offset, index), so that two implementations can share them without a file."""
    filled = {}
    for rank, key in enumerate(sorted(state), offset + 1):
        value = state[key]
        if value.dtype == torch.long:
            filled[key] = value
            continue
        mask = np.uint64(2**32 - 1)
        h = (np.arange(value.numel(), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(rank * 2246822519)) & mask
        h ^= h >> np.uint64(15)
        h = (h * np.uint64(2246822519)) & mask
        h ^= h >> np.uint64(13)
        z = 2 * h.astype(np.float64) / 2**32 - 1
        if key.endswith("running_mean"):
            z = 0.1 * z
        elif key.endswith("running_var"):
            z = 1 + 0.5 * z
        elif value.dim() >= 2 and not key.endswith((".g", ".b")):
            z = z * np.sqrt(6 / np.prod(value.shape[1:]))
        else:
            z = 1 + 0.1 * z if key.endswith((".weight", ".g")) else 0.05 * z
        filled[key] = torch.from_numpy(z.astype(np.float32)).view(value.shape)
    return filled
