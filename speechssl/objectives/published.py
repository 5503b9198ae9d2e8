"""What others published: the accuracy of pretraining after so many updates, and the settings of fine-tuning."""

import bisect
from typing import Any

# Masked accuracies that wav2vec 2.0 BASE reached for different batch sizes (arXiv 2402.13723, validation, K = 100), so that a run
# can be compared with what others saw after the same number of updates.
UPDATES = (5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000)
PUBLISHED = {  # seconds of audio per update -> accuracy after so many updates
    87.5: (0.150, 0.163, 0.231, 0.276, 0.306, 0.348, 0.390),
    150.0: (0.144, 0.161, 0.250, 0.307, 0.340, 0.381, 0.427),
    300.0: (0.140, 0.212, 0.276, 0.339, 0.380, 0.422, 0.463),
    600.0: (0.175, 0.234, 0.309, 0.379, 0.423, 0.467, 0.502),
    1200.0: (0.202, 0.263, 0.340, 0.421, 0.463, 0.500, 0.529),
    2400.0: (0.244, 0.308, 0.384, 0.480, 0.513, 0.538, 0.554),
    4800.0: (0.252, 0.322, 0.416, 0.506, 0.536, 0.555, 0.563),
}


def published_accuracy(batch_seconds: float, updates: int) -> float | None:
    """Accuracy that BASE had after so many updates at the nearest published batch; None before the first point."""
    if updates < UPDATES[0]:
        return None
    nearest = min(PUBLISHED, key=lambda seconds: abs(seconds - batch_seconds))
    return PUBLISHED[nearest][bisect.bisect_right(UPDATES, updates) - 1]


# Fine-tuning of wav2vec 2.0 on so many hours of labels (Baevski et al. 2020, appendix B), as fairseq's files
# examples/wav2vec/config/finetuning/{base,vox}_{10m,1h,10h,100h,960h}.yaml have it. Audio per update: max_tokens / 16 kHz x GPUs
# x update_freq. All else there is equal, and a default of the recipe.
COLUMNS = (
    "train.steps", "optim.lr", "objective.mask_prob", "objective.channel_prob", "objective.freeze_steps", "model.layerdrop",
    "data.batch_seconds",
)  # fmt: skip
FINETUNING: dict[str, tuple[Any, ...]] = {
    "base-10m": (13_000, 5e-5, 0.65, 0.25, 10_000, 0.1, 200.0 * 2 * 4),
    "base-1h": (13_000, 5e-5, 0.65, 0.25, 10_000, 0.1, 200.0 * 2 * 4),
    "base-10h": (20_000, 5e-5, 0.65, 0.5, 10_000, 0.05, 200.0 * 2 * 4),
    "base-100h": (80_000, 3e-5, 0.65, 0.5, 0, 0.1, 200.0 * 2 * 4),
    "base-960h": (320_000, 1e-5, 0.5, 0.1, 0, 0.1, 200.0 * 8),
    "large-10m": (13_000, 1e-4, 0.65, 0.25, 10_000, 0.1, 80.0 * 4 * 5),
    "large-1h": (13_000, 3e-4, 0.75, 0.25, 10_000, 0.1, 80.0 * 4 * 5),
    "large-10h": (20_000, 1e-4, 0.75, 0.25, 10_000, 0.1, 80.0 * 4 * 5),
    "large-100h": (80_000, 3e-5, 0.5, 0.5, 10_000, 0.1, 80.0 * 4 * 5),
    "large-960h": (320_000, 3e-5, 0.5, 0.25, 10_000, 0.1, 80.0 * 24),
}
