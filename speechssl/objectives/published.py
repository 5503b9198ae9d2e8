"""Masked accuracies that wav2vec 2.0 BASE reached for different batch sizes (arXiv 2402.13723, validation, K = 100), so that a
run can be compared with what others saw after the same number of updates."""

import bisect

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
