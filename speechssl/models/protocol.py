"""What the rest of the package asks of a network: the base class of every family."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry, Packed


class Encoder(nn.Module, ABC):
    """A network from waves to frames. Waves are mono at 16 kHz; the result for one never depends on the others of a call.

    config: a frozen dataclass with `model_type`, a key of FAMILIES, and `geometry`. head: what it has besides frames, "CTC",
    "classes" or nothing.
    """

    config: Any
    head: ClassVar[str] = ""
    head_json: dict[str, Any] = {}  # noqa: RUF012  # what config.json shall say of a new head: the names of classes

    @property
    def geometry(self) -> Geometry:
        """Samples per frame and the shortest wave that yields one."""
        return self.config.geometry

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    @abstractmethod
    def width(self) -> int:
        """D, numbers per frame."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """What `channel_mask` hides some of: the inputs of the first layer that frames have."""

    @abstractmethod
    def stream(self, waves: Sequence[np.ndarray | Tensor]) -> Packed:
        """Waves (S,) as one stream on the CPU, as the network takes it; its frames are what `mask_T` masks."""

    @abstractmethod
    def stages(self) -> list[str]:
        """What the names of the body's parameters start with, from the input up; a layer is a stage."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """L, the number of hidden states that `states` can give."""

    @abstractmethod
    def states(self, waves: Sequence[np.ndarray | Tensor], layers: Sequence[int] | None = None) -> list[Tensor]:
        """Hidden states of each wave (S,): (L, T, D), or only the given layers in that order."""

    def pool(self, mean_D: Any, largest_D: Any) -> Any:
        """One vector from the mean and the maximum over time, as the authors of the model make it: the mean."""
        return mean_D

    def settle(self, batch: Packed) -> None:
        """Set what a network with random weights takes from data, by a first batch: nothing."""

    def timestamps(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Frames of equally long waves (B, T, D), and the sample at the centre of each (T,), as HEAR asks for them."""
        frames_BTD = torch.stack([states_LTD[0] for states_LTD in self.states(waves, [self.layers - 1])])
        centre_T = torch.arange(frames_BTD.shape[1]) * self.geometry.hop + self.geometry.centre
        return frames_BTD, centre_T

    def untrained(self) -> "Encoder":
        """The same network with random weights from torch's generator, and the same normalisation of its input."""
        return type(self)(self.config)

    def log_probs(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """CTC log-posteriors of each wave (T, V), float32; only where `head` is "CTC"."""
        raise InputError("this model has no CTC head")

    def class_logits(self, waves: Sequence[np.ndarray]) -> Tensor:
        """Class logits (B, classes), float32; only where `head` is "classes"."""
        if self.head != "classes":
            raise InputError("this model has no classifier")
        return self(self.stream(waves).to(self.device))

    def saved_state(self, raw: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors of a checkpoint whose config.json came from, or will be, `raw`."""
        return {key: value.detach().cpu() for key, value in self.state_dict().items()}
