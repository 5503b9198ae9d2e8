"""Conformer layers (Gulati et al. 2020) on packed frames: those of wav2vec 2.0 Conformer and of w2v-BERT 2.0.

A layer is half a feed-forward block, attention, a convolution over time, and another half. Parameters have the names that
transformers gives them. Batch norms keep the statistics they have, in training too, so that no utterance depends on another.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.kernels.dropout import Dropout
from speechssl.models.kernels.products import Linear
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.context import ACTIVATIONS, FeedForward, PositionalConv, attend, start_small, states_of


class Places(NamedTuple):
    """What every layer needs to know about a batch. frames: number of frames of each utterance. whole: how many of them the
    others may see. table: the positions of the longest utterance, as the kind of attention wants them."""

    frames: list[int]
    whole: list[int]
    table: Tensor | None


class ConformerAttention(nn.Module):
    """Multi-head self-attention in which every utterance attends to itself only, without positions; subclasses know them."""

    def __init__(self, config: Wav2Vec2Config, width: int = 0) -> None:
        super().__init__()
        width = width or config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.linear_q, self.linear_k = Linear(width, width), Linear(width, width)
        self.linear_v, self.linear_out = Linear(width, width), Linear(width, width)

    def forward(self, x_TD: Tensor, places: Places) -> Tensor:
        """(T, D) -> (T, D)."""
        turned_TD = self.turned(x_TD, places)
        table = self.projected(places.table)
        inputs = ((self.linear_q, turned_TD), (self.linear_k, turned_TD), (self.linear_v, x_TD))
        parts = (
            (project(y).unflatten(1, (self.heads, -1)).transpose(0, 1).split(places.frames, 1)) for project, y in inputs
        )
        mixed, dropout = [], self.dropout if self.training else 0.0
        for q_HTd, k_HTd, v_HTd, seen in zip(*parts, places.whole, strict=True):
            q_HTd, bias_HTT = self.placed(q_HTd, table)
            bias = None if bias_HTT is None else bias_HTT[None, :, :, :seen].to(v_HTd.dtype)
            q, k, v = q_HTd[None].to(v_HTd.dtype), k_HTd[None, :, :seen], v_HTd[None, :, :seen]
            mixed.append(attend(q, k, v, dropout, bias)[0].transpose(0, 1).flatten(1))
        return self.linear_out(torch.cat(mixed))

    @staticmethod
    def table(config: Wav2Vec2Config, longest: int, like: Tensor) -> Tensor | None:
        """The positions of an utterance of `longest` frames."""
        return None

    def turned(self, x_TD: Tensor, places: Places) -> Tensor:
        """What queries and keys are made of."""
        return x_TD

    def projected(self, table: Tensor | None) -> Tensor | None:
        """The table as this layer sees it."""
        return None

    def placed(self, q_HTd: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(queries of an utterance, what is added to its scores (H, T, T))."""
        return q_HTd, None


class RotaryAttention(ConformerAttention):
    """Positions as angles by which pairs of channels are turned, before queries and keys are made (Su et al. 2021)."""

    @staticmethod
    def table(config: Wav2Vec2Config, longest: int, like: Tensor) -> Tensor:
        """(T, 1, d): the angle of each frame and channel of a head."""
        width = config.hidden_size // config.num_attention_heads
        speed_d = config.rotary_embedding_base ** (-torch.arange(0, width, 2, device=like.device).float() / width)
        return (torch.arange(longest, device=like.device)[:, None] * speed_d).repeat(1, 2)[:, None]

    def turned(self, x_TD: Tensor, places: Places) -> Tensor:
        """(T, D) -> (T, D)."""
        assert places.table is not None
        angle_T1d = torch.cat([places.table[:n] for n in places.frames])
        x_THd = x_TD.unflatten(1, (self.heads, -1))
        first, second = x_THd.chunk(2, dim=2)
        return (
            (x_THd * angle_T1d.cos() + torch.cat([-second, first], dim=2) * angle_T1d.sin()).flatten(1).to(x_TD.dtype)
        )


class RelativeAttention(ConformerAttention):
    """Sinusoids of the distance, projected, beside learned biases of content and position (Dai et al. 2019, section 3.3)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        width = config.hidden_size // config.num_attention_heads
        self.linear_pos = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.pos_bias_u = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.num_attention_heads, width)))
        self.pos_bias_v = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.num_attention_heads, width)))

    @staticmethod
    def table(config: Wav2Vec2Config, longest: int, like: Tensor) -> Tensor:
        """(2 T - 1, D): sine and cosine of the distances T - 1 ... 1 - T, by which a query lies to the right of a key."""
        speed_D = torch.exp(torch.arange(0, config.hidden_size, 2).float() * (-math.log(10_000) / config.hidden_size))
        angle_RD = torch.arange(longest - 1, -longest, -1).float()[:, None] * speed_D
        return torch.stack([angle_RD.sin(), angle_RD.cos()], dim=2).flatten(1).to(like)

    def projected(self, table: Tensor | None) -> Tensor:
        """(2 T - 1, D) -> (H, 2 T - 1, d)."""
        assert table is not None
        return self.linear_pos(table).unflatten(1, (self.heads, -1)).transpose(0, 1)

    def placed(self, q_HTd: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """The query with the bias of content; the scores of its distances to all keys."""
        assert table is not None
        n, middle = q_HTd.shape[1], table.shape[1] // 2
        by_distance_HTR = (q_HTd + self.pos_bias_v[:, None]) @ table[:, middle - n + 1 : middle + n].transpose(1, 2)
        shifted_HTR = F.pad(by_distance_HTR, (1, 0)).view(self.heads, 2 * n, n)[:, 1:].reshape(self.heads, n, 2 * n - 1)
        return q_HTd + self.pos_bias_u[:, None], shifted_HTR[:, :, :n] * q_HTd.shape[2] ** -0.5


class RelativeKeyAttention(ConformerAttention):
    """A learned key for each distance, all far ones sharing the last (Shaw et al. 2018)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.left, self.right = config.left_max_position_embeddings, config.right_max_position_embeddings
        width = config.hidden_size // config.num_attention_heads
        self.distance_embedding = nn.Embedding(self.left + self.right + 1, width)

    def placed(self, q_HTd: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """The query as it is; its products with the keys of its distances."""
        time_T = torch.arange(q_HTd.shape[1], device=q_HTd.device)
        distance_TT = (time_T[None] - time_T[:, None]).clamp(-self.left, self.right) + self.left
        scores_HTR = q_HTd @ self.distance_embedding.weight.T.to(q_HTd.dtype)
        bias_HTT = scores_HTR.gather(2, distance_TT.expand(self.heads, -1, -1))
        return q_HTd, bias_HTT * q_HTd.shape[2] ** -0.5


ATTENTION = {
    "": ConformerAttention,
    "relative": RelativeAttention,
    "rotary": RotaryAttention,
    "relative_key": RelativeKeyAttention,
}


class ConvolutionModule(nn.Module):
    """A gated map, a convolution over time of each channel by itself, a norm, an activation and another map.

    w2v-BERT 2.0's is causal, with layer norm; that of wav2vec 2.0 Conformer looks to both sides, with batch norm.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width, kernel, self.causal = config.hidden_size, config.conv_depthwise_kernel_size, config.log_mel
        self.before, self.after = (kernel - 1, 0) if self.causal else (kernel // 2, kernel // 2)
        self.layer_norm = nn.LayerNorm(width, eps=norm_eps(config))
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, groups=width, bias=False)
        if self.causal:
            self.depthwise_layer_norm = nn.LayerNorm(width, eps=norm_eps(config))
        else:
            self.batch_norm = nn.BatchNorm1d(width)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=False)
        self.dropout = Dropout(config.conformer_conv_dropout)
        for conv in (self.pointwise_conv1, self.depthwise_conv, self.pointwise_conv2):
            nn.init.kaiming_normal_(conv.weight)

    def forward(self, x_TD: Tensor, places: Places) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = only_whole(self.layer_norm(x_TD), places)
        x_TD = F.glu(F.linear(x_TD, self.pointwise_conv1.weight[:, :, 0]), dim=1)
        x_TD = self.normed(self.over_time(x_TD, places.frames))
        return self.dropout(F.linear(self.activation(x_TD), self.pointwise_conv2.weight[:, :, 0]))

    def over_time(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """The convolution, with zeros around every utterance."""
        spaced = [F.pad(piece_TD, (0, 0, self.before, self.after)) for piece_TD in x_TD.split(frames)]
        y_TD = F.conv1d(torch.cat(spaced).T[None], self.depthwise_conv.weight, groups=x_TD.shape[1])[0].T
        gap = self.before + self.after
        pieces = F.pad(y_TD, (0, 0, 0, gap)).split([n + gap for n in frames])
        return torch.cat([piece_TD[:n] for piece_TD, n in zip(pieces, frames, strict=True)])

    def normed(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        if self.causal:
            return self.depthwise_layer_norm(x_TD)
        norm = self.batch_norm
        return F.batch_norm(x_TD, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def norm_eps(config: Wav2Vec2Config) -> float:
    """Epsilon of the layers' norms: transformers has it fixed in wav2vec 2.0 Conformer."""
    return config.layer_norm_eps if config.log_mel else 1e-5


def only_whole(x_TD: Tensor, places: Places) -> Tensor:
    """Zeros in the place of frames that are not whole."""
    if places.whole == places.frames:
        return x_TD
    pairs = zip(x_TD.split(places.frames), places.whole, strict=True)
    return torch.cat([F.pad(piece_TD[:n], (0, 0, 0, len(piece_TD) - n)) for piece_TD, n in pairs])


class ConformerLayer(nn.Module):
    """Half a feed-forward block, attention, convolution, half a feed-forward block, norm."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, norm_eps(config)
        self.ffn1_layer_norm, self.ffn1 = nn.LayerNorm(width, eps=eps), FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=eps)
        self.self_attn = ATTENTION[config.position_embeddings_type](config)
        self.self_attn_dropout = Dropout(config.attention_dropout)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm, self.ffn2 = nn.LayerNorm(width, eps=eps), FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x_TD: Tensor, places: Places) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = x_TD + 0.5 * self.dropout(self.ffn1(self.ffn1_layer_norm(x_TD)))
        x_TD = x_TD + self.self_attn_dropout(self.self_attn(self.self_attn_layer_norm(x_TD), places))
        x_TD = x_TD + self.conv_module(x_TD, places)
        x_TD = x_TD + 0.5 * self.dropout(self.ffn2(self.ffn2_layer_norm(x_TD)))
        return self.final_layer_norm(x_TD)


class ConformerNetwork(nn.Module):
    """Conformer layers, and in wav2vec 2.0 Conformer a final norm."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.layer_norm = None if config.log_mel else nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if not config.log_mel:
            # never used, but in every published file
            self.pos_conv_embed = PositionalConv(config).requires_grad_(False)
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_hidden_layers))
        start_small(self.layers)

    def forward(
        self,
        x_TD: Tensor,
        frames: Sequence[int],
        skip: frozenset[int] = frozenset(),
        checkpointing: bool = False,
        whole: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """(T, D) -> L + 1 states (T, D), as in ContextNetwork. whole: how many frames of each utterance the others may see (None:
        all); transformers pads an odd last frame of log-mels and hides the pair."""
        attention = ATTENTION[self.config.position_embeddings_type]
        places = Places(list(frames), list(frames if whole is None else whole), None)
        places = places._replace(table=attention.table(self.config, max(frames), x_TD))
        states = states_of(self.layers, self.dropout(only_whole(x_TD, places)), places, skip, checkpointing)
        if self.layer_norm is not None:
            states[-1] = self.layer_norm(states[-1])
        return states
