"""Augmented views of log-mel spectrograms, on the whole batch and on its device (Niizumi et al. 2021, section III-C).

The random numbers of a clip are drawn beforehand from (seed, epoch, utterance), so a view does not depend on batch mates,
workers or processes. One row of `draws_BK` holds, for one view: the share of the mixed-in clip, its place in the memory bank
(0 ... 1), the crop's box (first band, first frame, bands, frames) in the canvas, and the fader's head and tail.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import InputError

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How views are made; the defaults are BYOL-S's."""

    mixup_ratio: float = 0.4
    """Largest share of another clip, in power (BYOL-A version 2: 0.2)."""
    canvas: float = 1.5
    """Length of the zero-filled canvas that boxes are cropped from, as a multiple of the clip's."""
    freq_scale: tuple[float, float] = (0.6, 1.5)
    """Range of the box's height as a part of the bands; at most all of them."""
    time_scale: tuple[float, float] = (0.6, 1.5)
    """Range of the box's length as a part of the clip's."""
    fader: float = 0.0
    """Largest change of level, in the normalised log-mel, at either end (BYOL-A version 2: 1; BYOL-S has none)."""

    def __post_init__(self) -> None:
        if not 0 <= self.mixup_ratio < 1:
            raise InputError(f"views.mixup_ratio = {self.mixup_ratio} is outside [0, 1); BYOL-S uses 0.4")
        if self.canvas < 1:
            raise InputError(f"views.canvas = {self.canvas} must be at least 1: the clip has to fit; BYOL-S uses 1.5")
        if self.fader < 0:
            raise InputError(f"views.fader = {self.fader} cannot be negative; BYOL-S uses 0")
        for name in ("freq_scale", "time_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(
                    f"views.{name} = {low}, {high} must be two rising numbers above 0; BYOL-S uses 0.6, 1.5"
                )


def draw(config: ViewConfig, bands: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """The random numbers (K,) of one view of one clip of (bands, frames)."""
    canvas = int(config.canvas * frames)
    height = int(np.clip(int(rng.uniform(*config.freq_scale) * bands), 1, bands))
    length = int(np.clip(int(rng.uniform(*config.time_scale) * frames), 1, canvas))
    box = (rng.integers(0, bands - height + 1), rng.integers(0, canvas - length + 1), height, length)
    mix = (config.mixup_ratio * rng.random(), rng.random())
    return np.array([*mix, *box, *rng.uniform(-config.fader, config.fader, 2)])


def view(mel_BFT: Tensor, bank_MFT: Tensor, filled: Tensor, draws_BK: Tensor, canvas: int) -> Tensor:
    """One view of each clip: mixed with a clip of the bank's first `filled` ones, cropped, faded."""
    with torch.autocast(mel_BFT.device.type, enabled=False):
        share_B = draws_BK[:, 0] * (filled > 0)
        place_B = (draws_BK[:, 1] * filled).long()
        mixed_BFT = log_mixup_exp(mel_BFT, bank_MFT[place_B], share_B)
        cropped_BFT = resize_crop(mixed_BFT, draws_BK[:, 2:6], canvas)
        return linear_fader(cropped_BFT, draws_BK[:, 6], draws_BK[:, 7])


def log_mixup_exp(x_BFT: Tensor, other_BFT: Tensor, share_B: Tensor) -> Tensor:
    """Mix as if the normalised log-mels were logarithms of powers; the largest is subtracted first so that nothing overflows."""
    share, top = share_B.to(x_BFT.dtype)[:, None, None], torch.maximum(x_BFT, other_BFT).clamp_min(0)
    mixed = (1 - share) * (x_BFT - top).exp() + share * (other_BFT - top).exp() + EPS * (-top).exp()
    return top + mixed.log()


def resize_crop(x_BFT: Tensor, box_B4: Tensor, canvas: int) -> Tensor:
    """Crop a box from a canvas of zeros with the clip in its middle, and stretch it to the clip's size (bicubic).

    box_B4: first band, first frame, bands, frames. Bicubic interpolation is linear, so it is two matrix products.
    """
    bands, frames = x_BFT.shape[1:]
    rows_BFf = resampler(box_B4[:, 0], box_B4[:, 2], bands, bands, 0)
    columns_BTt = resampler(box_B4[:, 1], box_B4[:, 3], frames, canvas, (canvas - frames) // 2)
    return rows_BFf.to(x_BFT.dtype) @ x_BFT @ columns_BTt.to(x_BFT.dtype).mT


def resampler(first_B: Tensor, length_B: Tensor, size: int, canvas: int, offset: int) -> Tensor:
    """Matrices (B, size, size) that crop and resample one axis of each clip.

    The clip's `size` cells lie at `offset` in a canvas of `canvas` cells, the others zero. The box covers `length` cells of
    the canvas from `first` on, and `size` points are spread evenly over it, the outermost ones on its outermost cells. The value
    at a point is the cubic interpolation (a = -0.75) of the four cells around it; cells beyond the box repeat its edge.
    Suffixes here: P points, C cells of the canvas.
    """
    first_B1, last_B1 = first_B.double()[:, None], length_B.double()[:, None] - 1  # last: counted from the first
    share_P = torch.arange(size, device=first_B.device, dtype=torch.float64) / max(size - 1, 1)
    position_BP = share_P * last_B1  # of each point, in cells from the box's first
    below_BP = position_BP.floor()
    matrix_BPC = first_B.new_zeros(len(first_B), size, canvas, dtype=torch.float64)
    for tap in (-1, 0, 1, 2):
        weight_BP = cubic((position_BP - below_BP - tap).abs())
        in_box_BP = torch.minimum((below_BP + tap).clamp_min(0), last_B1)
        cell_BP = (first_B1 + in_box_BP).long()
        matrix_BPC.scatter_add_(2, cell_BP[..., None], weight_BP[..., None])
    return matrix_BPC[..., offset : offset + size]


def cubic(d: Tensor, a: float = -0.75) -> Tensor:
    """The cubic convolution kernel at distances d in [0, 2]."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return torch.where(d <= 1, near, far)


def linear_fader(x_BFT: Tensor, head_B: Tensor, tail_B: Tensor) -> Tensor:
    """Add a ramp over time from `head` to `tail`."""
    steps_T = torch.linspace(0, 1, x_BFT.shape[2], device=x_BFT.device, dtype=torch.float64)
    ramp_BT = head_B.double()[:, None] + (tail_B - head_B).double()[:, None] * steps_T
    return x_BFT + ramp_BT.to(x_BFT.dtype)[:, None]
