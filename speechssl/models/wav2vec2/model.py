"""wav2vec 2.0 and its kin assembled: encoder, projection, context network; plus the heads.

Module and parameter names are those of transformers' Wav2Vec2Model / ForPreTraining / ForCTC / ForSequenceClassification,
so a state dict is a checkpoint of theirs as it stands (architecture only: no training code here). The other families only
call the attribute `wav2vec2` otherwise, on disk.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechssl.core.packed import Packed, on_device
from speechssl.models.kernels.dropout import Dropout
from speechssl.models.kernels.products import Linear
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.context import ContextNetwork
from speechssl.models.wav2vec2.encoder import ConvEncoder
from speechssl.models.wav2vec2.quantizer import GumbelQuantizer


class FeatureProjection(nn.Module):
    """Layer norm of the encoder's features, then a linear map to the transformer's width."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.layer_norm = norm if config.feat_proj_layer_norm else nn.Identity()
        self.projection = Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)
        nn.init.uniform_(self.projection.weight, -(config.conv_dim[-1] ** -0.5), config.conv_dim[-1] ** -0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, features_TC: Tensor) -> tuple[Tensor, Tensor]:
        """(T, C) -> projected (T, D) and normalised features (T, C), the quantizer's input."""
        normed_TC = self.layer_norm(features_TC)
        return self.dropout(self.projection(normed_TC)), normed_TC


class Encoded(NamedTuple):
    """features_TC: encoder output. normed_TC: the same, layer-normed. states: L + 1 tensors (T, D)."""

    features_TC: Tensor
    normed_TC: Tensor
    states: list[Tensor]


class Wav2Vec2Model(nn.Module):
    """Raw audio -> contextual frames."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = ConvEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.rand(config.hidden_size))
        self.encoder = ContextNetwork(config)

    def forward(
        self,
        batch: Packed,
        mask_T: Tensor | None = None,
        channel_mask_BD: Tensor | None = None,
        feature_grad: float = 1.0,
        skip: frozenset[int] = frozenset(),
        checkpointing: bool = False,
    ) -> Encoded:
        """Encode a batch.

        mask_T: frames whose input the learned mask vector replaces. channel_mask_BD: channels set to zero, per
        utterance. feature_grad: factor on the gradient that reaches the convolutional encoder (0: it gets none).
        skip, checkpointing: see ContextNetwork.forward.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and feature_grad > 0):
            features_TC = self.feature_extractor(batch)
        features_TC = ScaleGradient.apply(features_TC, feature_grad)
        x_TD, normed_TC = self.feature_projection(features_TC)
        if mask_T is not None:
            x_TD = torch.where(mask_T[:, None], self.masked_spec_embed.to(x_TD.dtype), x_TD)
        if channel_mask_BD is not None:
            x_TD = x_TD.masked_fill(expand(channel_mask_BD, batch.frames), 0.0)
        return Encoded(features_TC, normed_TC, self.encoder(x_TD, batch.frames, skip, checkpointing))


def expand(values_BD: Tensor, frames: Sequence[int]) -> Tensor:
    """One row per utterance -> one row per frame: (B, D) -> (T, D)."""
    counts_B = on_device(frames, values_BD.device)
    return values_BD.repeat_interleave(counts_B, dim=0, output_size=sum(frames))


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class Headless(nn.Module):
    """The model alone, as published without a head; the heads below add to it."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.wav2vec2 = Wav2Vec2Model(config)


class Wav2Vec2ForPreTraining(Headless):
    """The model with its quantizer and the two projections in which contexts and targets meet."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.quantizer = GumbelQuantizer(config)
        self.project_hid = Linear(config.hidden_size, config.proj_codevector_dim)
        self.project_q = Linear(config.codevector_dim, config.proj_codevector_dim)


class Wav2Vec2ForCTC(Headless):
    """The model with a linear layer to characters."""

    def __init__(self, config: Wav2Vec2Config, vocab_size: int) -> None:
        super().__init__(config)
        self.dropout = Dropout(config.final_dropout)
        self.lm_head = Linear(config.hidden_size, vocab_size)

    def forward(self, batch: Packed, **masks) -> Tensor:
        """Log-posteriors (T, V) of every frame, float32; keywords as in Wav2Vec2Model.forward."""
        x_TD = self.dropout(self.wav2vec2(batch, **masks).states[-1])
        return torch.log_softmax(self.lm_head(x_TD).float(), dim=-1)


class Wav2Vec2ForSequenceClassification(Headless):
    """The model with a mean over time and a linear layer to classes; `weighted`: over a learned mixture of all states."""

    def __init__(self, config: Wav2Vec2Config, width: int, classes: int, weighted: bool) -> None:
        super().__init__(config)
        count = config.num_hidden_layers + 1
        self.layer_weights = nn.Parameter(torch.ones(count) / count) if weighted else None
        self.projector = Linear(config.hidden_size, width)
        self.classifier = Linear(width, classes)

    def forward(self, batch: Packed) -> Tensor:
        """Logits (B, classes), float32."""
        states = self.wav2vec2(batch).states
        x_TD = states[-1]
        if self.layer_weights is not None:
            x_TD = torch.einsum("l,ltd->td", self.layer_weights.softmax(dim=0), torch.stack(states))
        pooled = [piece_TD.mean(dim=0) for piece_TD in self.projector(x_TD).split(batch.frames)]
        return self.classifier(torch.stack(pooled)).float()
