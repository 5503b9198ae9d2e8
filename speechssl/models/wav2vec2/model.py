"""wav2vec 2.0 and its kin assembled: encoder, projection, context network; plus the heads.

Module and parameter names are those of transformers' Wav2Vec2Model / ForPreTraining / ForCTC / ForSequenceClassification,
so a state dict is a checkpoint of theirs as it stands (architecture only: no training code here). The other families only
call the attribute `wav2vec2` otherwise, on disk.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from speechssl.core.packed import Packed, on_device, pack, segments
from speechssl.models.kernels.dropout import Dropout
from speechssl.models.kernels.products import Linear
from speechssl.models.protocol import Encoder
from speechssl.models.wav2vec2.adapter import OutputAdapter
from speechssl.models.wav2vec2.config import SAMPLE_RATE, Wav2Vec2Config
from speechssl.models.wav2vec2.conformer import ConformerNetwork, Places
from speechssl.models.wav2vec2.context import ContextNetwork, FeedForward
from speechssl.models.wav2vec2.encoder import ConvEncoder
from speechssl.models.wav2vec2.logmel import LogMelFrames
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
        self.feature_extractor = LogMelFrames() if config.log_mel else ConvEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.rand(config.hidden_size))
        self.encoder = ConformerNetwork(config) if config.conformer else ContextNetwork(config)
        self.adapter = OutputAdapter(config) if config.add_adapter else None
        wider = config.add_adapter and config.use_intermediate_ffn_before_adapter
        self.intermediate_ffn = FeedForward(config, activation="relu") if wider else None

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
        skip: layers left out in training. checkpointing: recompute the layers' insides in the backward pass.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and feature_grad > 0):
            features_TC = self.feature_extractor(batch)
        features_TC = ScaleGradient.apply(features_TC, feature_grad)
        x_TD, normed_TC = self.feature_projection(features_TC)
        if mask_T is not None:
            x_TD = torch.where(mask_T[:, None], self.masked_spec_embed.to(x_TD.dtype), x_TD)
        if channel_mask_BD is not None:
            x_TD = x_TD.masked_fill(expand(channel_mask_BD, batch.frames), 0.0)
        whole = self.feature_extractor.whole(batch)
        return Encoded(features_TC, normed_TC, self.encoder(x_TD, batch.frames, skip, checkpointing, whole))

    def output(self, x_TD: Tensor, batch: Packed) -> tuple[Tensor, Places]:
        """What a head takes of the last state (T, D), and its frames: the state itself, or with an adapter (T', D'), fewer and
        longer frames, as many for each utterance as `config.letters` says."""
        places = Places(list(batch.frames), list(self.feature_extractor.whole(batch)), None)
        if self.intermediate_ffn is not None:
            x_TD = x_TD + 0.5 * self.intermediate_ffn(x_TD)
        return (x_TD, places) if self.adapter is None else self.adapter(x_TD, places)


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


def streamed(waves: Sequence[np.ndarray], config: Wav2Vec2Config) -> Packed:
    """Waves (S,) of 16 kHz as one stream of the network's rate, normalised if it wants that."""
    if config.sampling_rate < SAMPLE_RATE:
        waves = [soxr.resample(wave_S, SAMPLE_RATE, config.sampling_rate)[: len(wave_S) // 2] for wave_S in waves]
    return pack(waves, config.stream, normalise=config.do_normalize, rate=config.sampling_rate)


class Wav2Vec2Encoder(Encoder):
    """The model as published without a head; the classes below add one."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.wav2vec2 = Wav2Vec2Model(config)

    @property
    def width(self) -> int:
        """D, numbers per frame."""
        return self.config.hidden_size

    @property
    def layers(self) -> int:
        """L: the input of the first layer and the output of each."""
        return self.config.num_hidden_layers + 1

    @property
    def channels(self) -> int:
        """The width of the first layer's input."""
        return self.config.hidden_size

    def stages(self) -> list[str]:
        """Convolutions, projection, what comes before the first layer, and each layer."""
        layers = [f"wav2vec2.encoder.layers.{i}." for i in range(self.config.num_hidden_layers)]
        return ["wav2vec2.feature_extractor.", "wav2vec2.", "wav2vec2.encoder.", *layers]

    def stream(self, waves: Sequence[np.ndarray | Tensor]) -> Packed:
        """Waves (S,) as one stream on the CPU, normalised if the model wants that."""
        arrays = [wave_S.detach().cpu().numpy() if isinstance(wave_S, Tensor) else wave_S for wave_S in waves]
        return streamed(arrays, self.config)

    def packed(self, waves: Sequence[np.ndarray | Tensor]) -> Packed:
        """The same where the weights are."""
        return self.stream(waves).to(self.device)

    def states(self, waves: Sequence[np.ndarray | Tensor], layers: Sequence[int] | None = None) -> list[Tensor]:
        """Hidden states of each wave (S,): (L, T, D); 0 is the input of the first layer."""
        batch = self.packed(waves)
        states = self.wav2vec2(batch).states
        states_LTD = torch.stack(states if layers is None else [states[layer] for layer in layers])
        return [states_LTD[:, rows] for rows in segments(batch.frames)]

    def untrained(self) -> Encoder:
        """The same network without its head, with random weights."""
        return Wav2Vec2Encoder(self.config)

    def saved_state(self, raw: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors of a checkpoint; transformers makes no mask vector for a model whose config.json never masks."""
        state = super().saved_state(raw)
        if not (raw.get("mask_time_prob", 1) or raw.get("mask_feature_prob", 0)):
            del state["wav2vec2.masked_spec_embed"]
        return state


class Wav2Vec2ForPreTraining(Wav2Vec2Encoder):
    """The model with its quantizer and the two projections in which contexts and targets meet."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.quantizer = GumbelQuantizer(config)
        self.project_hid = Linear(config.hidden_size, config.proj_codevector_dim)
        self.project_q = Linear(config.codevector_dim, config.proj_codevector_dim)

    def untrained(self) -> Encoder:
        """The same network and quantizer with random weights."""
        return Wav2Vec2ForPreTraining(self.config)


class Wav2Vec2ForCTC(Wav2Vec2Encoder):
    """The model with a linear layer to characters."""

    head = "CTC"

    def __init__(self, config: Wav2Vec2Config, vocab_size: int) -> None:
        super().__init__(config)
        self.dropout = Dropout(config.final_dropout)
        self.lm_head = Linear(config.output_width, vocab_size)

    def forward(self, batch: Packed, *, frozen: bool = False, **options: Any) -> Tensor:
        """Log-posteriors (T, V) of every frame of `config.letters`, float32. frozen: no gradient reaches the pretrained part.
        options: as in Wav2Vec2Model.forward."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            states = self.wav2vec2(batch, **options).states
            x_TD, _ = self.wav2vec2.output(states[-1], batch)
        x_TD = self.dropout(x_TD)
        return torch.log_softmax(self.lm_head(x_TD).float(), dim=-1)

    def log_probs(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """CTC log-posteriors of each wave (S,): (T, V), float32."""
        batch = self.packed(waves)
        log_probs_TV = self(batch)
        return [log_probs_TV[rows] for rows in segments(self.letter_frames(batch))]

    def letter_frames(self, batch: Packed) -> list[int]:
        """Frames of each utterance among the log-posteriors."""
        return [self.config.letters.frames(samples * SAMPLE_RATE // batch.rate) for samples in batch.samples]


class Wav2Vec2ForSequenceClassification(Wav2Vec2Encoder):
    """The model with a mean over time and a linear layer to classes; `weighted`: over a learned mixture of all states."""

    head = "classes"

    def __init__(self, config: Wav2Vec2Config, width: int, classes: int, weighted: bool) -> None:
        super().__init__(config)
        count = config.num_hidden_layers + 1
        self.layer_weights = nn.Parameter(torch.ones(count) / count) if weighted else None
        self.projector = Linear(config.output_width, width)
        self.dropout = Dropout(config.final_dropout)
        self.classifier = Linear(width, classes)

    def forward(self, batch: Packed, *, frozen: bool = False, **options: Any) -> Tensor:
        """Logits (B, classes), float32. frozen: no gradient reaches the pretrained part. options: as in Wav2Vec2Model.forward."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            states = self.wav2vec2(batch, **options).states
            x_TD, places = self.wav2vec2.output(states[-1], batch)
        if self.layer_weights is not None:
            x_TD = torch.einsum("l,ltd->td", self.layer_weights.softmax(dim=0), torch.stack(states))
        pieces = zip(self.projector(x_TD).split(places.frames), places.whole, strict=True)
        pooled = [piece_TD[:whole].mean(dim=0) for piece_TD, whole in pieces]
        return self.classifier(self.dropout(torch.stack(pooled))).float()
