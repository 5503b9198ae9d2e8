"""BYOL-S as an auxiliary path of wav2vec 2.0: the pooled features of the masked utterance predict those of the whole one.

The masked pass is one view, the clean utterance through a moving average of the network the other. Heads use layer norm
instead of BYOL's batch norm, so the loss of an utterance does not depend on its batch mates and micro-batches add up.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.packed import Packed
from speechssl.models.wav2vec2.model import Wav2Vec2Model

HIDDEN, PROJECTION = 1024, 256


def head(inputs: int) -> nn.Sequential:
    """Projector and predictor."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PROJECTION, bias=False)
    )


def pooled(states_TD: Tensor, frames: tuple[int, ...]) -> Tensor:
    """Mean + maximum over each utterance's frames, as BYOL-S pools: (T, D) -> (B, D) float32."""
    pieces = states_TD.float().split(list(frames))
    return torch.stack([piece_TD.mean(dim=0) + piece_TD.amax(dim=0) for piece_TD in pieces])


class UtteranceLoss(nn.Module):
    """Projector, predictor and the network that follows; `tau` is the share of it that an update keeps."""

    def __init__(self, model: Wav2Vec2Model, tau: float) -> None:
        super().__init__()
        self.tau = tau
        self.projector, self.predictor = head(model.config.hidden_size), head(PROJECTION)
        self.target = copy.deepcopy(nn.ModuleList([model, self.projector])).requires_grad_(False)

    def train(self, mode: bool = True) -> "UtteranceLoss":
        """The target network never drops anything."""
        super().train(mode)
        self.target.eval()
        return self

    def forward(self, states_TD: Tensor, audio: Packed) -> Tensor:
        """2 - 2 cos of every utterance, (B,); states_TD: the last layer of the masked pass."""
        with torch.no_grad():
            wanted_BD = self.target[1](pooled(self.target[0](audio).states[-1], audio.frames))
        predicted_BD = self.predictor(self.projector(pooled(states_TD, audio.frames)))
        return 2 - 2 * F.cosine_similarity(predicted_BD.float(), wanted_BD.float(), dim=1)

    @torch.no_grad()
    def follow(self, model: Wav2Vec2Model) -> None:
        """Move the target network towards the one that learns."""
        online = nn.ModuleList([model, self.projector])
        torch._foreach_lerp_(list(self.target.parameters()), list(online.parameters()), 1 - self.tau)
