"""How far the sound of a recording stands out of its own background, every 10 ms: where speech begins and ends.

Each band is compared with its own noise floor, so a weak "s" counts although a room hums louder below it.
"""

import numpy as np

STEP = 160  # samples at 16 kHz: 10 ms
WINDOW = 320
EDGES = (100, 300, 500, 800, 1200, 1800, 2600, 3800, 5400, 7600)  # Hz, of the bands: about as wide as hearing has them
AROUND = 500  # steps on either side from which a floor is taken
QUIETEST = 10  # the floor is the level of the quietest step in so many
LEAST = 1e-10  # power: 16-bit rounding


def levels(wave_S: np.ndarray) -> np.ndarray:
    """The mean power in each band (F, bands) of a wave at 16 kHz; step f is centred on its own 10 ms."""
    count, margin = len(wave_S) // STEP, (WINDOW - STEP) // 2
    padded_S = np.pad(wave_S, (margin, WINDOW))
    frames_FW = np.lib.stride_tricks.sliding_window_view(padded_S, WINDOW)[::STEP][:count]
    spectrum_FH = np.fft.rfft(frames_FW * np.hanning(WINDOW).astype(np.float32))
    power_FH = (spectrum_FH.real**2 + spectrum_FH.imag**2) / WINDOW
    places = np.searchsorted(np.fft.rfftfreq(WINDOW, 1 / 16_000), EDGES)
    return np.add.reduceat(power_FH[:, : places[-1]], places[:-1], axis=1) / np.diff(places).astype(np.float32)


def excess(levels_FB: np.ndarray) -> np.ndarray:
    """Decibels (F,) by which each 30 ms stand above the floor: the mean over the bands of their power relative to that of the
    quietest tenth within 5 s."""
    padded_FB = np.pad(levels_FB, ((1, 1), (0, 0)), mode="edge" if len(levels_FB) else "constant")
    levels_FB = (padded_FB[:-2] + padded_FB[1:-1] + padded_FB[2:]) / 3
    found = []
    for first in range(0, len(levels_FB), AROUND // 5):
        last = first + AROUND // 5
        near_FB = levels_FB[max(0, first - AROUND) : last + AROUND]
        floor_B = np.partition(near_FB, len(near_FB) // QUIETEST, axis=0)[len(near_FB) // QUIETEST]
        found.append((levels_FB[first:last] / np.maximum(floor_B, LEAST)).mean(axis=1))
    return 10 * np.log10(np.maximum(np.concatenate(found or [np.zeros(0)]), LEAST))
