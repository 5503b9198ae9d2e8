"""The context network (wav2vec 2.0, section 2): relative positions by convolution, then a transformer, on packed frames.

The frames of all utterances lie end to end as (T, D); `frames` is the number of frames of each. Layer norm comes after each
block (post-LN, BASE) or before it (pre-LN, LARGE). Where HuBERT, data2vec, WavLM or MMS differ, they have a small class of their
own. Parameters have the names that transformers gives them.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from speechssl.core.packed import on_device
from speechssl.models.kernels.conv import conv_grouped
from speechssl.models.kernels.dropout import Dropout, keep_mask
from speechssl.models.kernels.products import Linear
from speechssl.models.wav2vec2.config import Wav2Vec2Config


def conv_same(x_TD: Tensor, conv: Any, reach: int, frames: Sequence[int]) -> Tensor:
    """Convolution over time, (T, D) -> (T, D), with "same" padding: half a kernel (`reach`) of zeros between utterances that
    neighbours share. An even kernel gives a frame too many, the last one, which is dropped."""
    gap_D = x_TD.new_zeros(reach, x_TD.shape[1])
    spaced = [gap_D]
    for piece_TD in x_TD.split(list(frames)):
        spaced += [piece_TD, gap_D]
    y_TD = conv_grouped(torch.cat(spaced), conv.weight, conv.bias, conv.groups)
    sizes = [size for n in frames for size in (n, reach)]
    sizes[-1] = y_TD.shape[0] - sum(sizes[:-1])
    return torch.cat(y_TD.split(sizes)[::2])


class PositionalConv(nn.Module):
    """Grouped convolution over time (kernel 128) whose output is added to its input: a relative position embedding."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        self.reach = kernel // 2
        self.batch_norm = nn.BatchNorm1d(width) if config.conv_pos_batch_norm else None
        conv = nn.Conv1d(width, width, kernel, groups=config.num_conv_pos_embedding_groups)
        nn.init.normal_(conv.weight, std=(4 / (kernel * width)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = conv if config.conv_pos_batch_norm else weight_norm(conv, dim=2)

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """(T, D) -> (T, D)."""
        if self.batch_norm is not None:
            x_TD = self.batch_norm(x_TD)
        return F.gelu(conv_same(x_TD, self.conv, self.reach, frames))


class StackedPositionalConvLayer(nn.Module):
    """One of data2vec's positional convolutions: no weight norm, but a layer norm without weights after it."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.conv_pos_kernel_size
        self.reach = kernel // 2
        self.conv = nn.Conv1d(width, width, kernel, groups=config.num_conv_pos_embedding_groups)
        self.layer_norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """(T, D) -> (T, D)."""
        return F.gelu(self.layer_norm(conv_same(x_TD, self.conv, self.reach, frames)))


class StackedPositionalConv(nn.Module):
    """data2vec's relative position embedding: narrow convolutions one after the other (Baevski et al. 2022, section 3.1)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(StackedPositionalConvLayer(config) for _ in range(config.num_conv_pos_embeddings))

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """(T, D) -> (T, D)."""
        for layer in self.layers:
            x_TD = layer(x_TD, frames)
        return x_TD


LONG = 1500  # frames, half a minute


def attend(q_1HTd: Tensor, k_1HTd: Tensor, v_1HTd: Tensor, dropout: float, bias_1HTT: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of one utterance.

    torch's fused kernel, except on a CPU in two cases where the formula is faster: with dropout, whose mask the kernel draws
    slowly, and in bf16 unless a long utterance's T x T scores would fill the memory.
    """
    short = torch.is_grad_enabled() or q_1HTd.shape[2] <= LONG
    formula = q_1HTd.device.type == "cpu" and (dropout > 0 or (q_1HTd.dtype == torch.bfloat16 and short))
    if not formula:
        return F.scaled_dot_product_attention(q_1HTd, k_1HTd, v_1HTd, attn_mask=bias_1HTT, dropout_p=dropout)
    scores_1HTT = (q_1HTd * q_1HTd.shape[-1] ** -0.5) @ k_1HTd.transpose(2, 3)
    if bias_1HTT is not None:
        scores_1HTT = scores_1HTT + bias_1HTT
    weights_1HTT = scores_1HTT.softmax(dim=-1)
    if dropout:
        weights_1HTT, v_1HTd = weights_1HTT * keep_mask(weights_1HTT, dropout), v_1HTd * (1 / (1 - dropout))
    return weights_1HTT @ v_1HTd


class Spans(NamedTuple):
    """What every layer needs to know about a batch. frames: number of frames of each utterance. ends_B: 0 and the utterances'
    ends, int32 (B + 1,), on a GPU only. distance_HTT: WavLM's bias by distance, for the longest utterance."""

    frames: list[int]
    ends_B: Tensor | None
    distance_HTT: Tensor | None


def flash_serves(q_THd: Tensor, dropout: float) -> bool:
    """Whether the variable-length flash kernel can be used: a GPU since Ampere, 16 bits, and no dropout, which it lacks.

    With dropout, as in BASE's pretraining (attention_dropout = 0.1), a GPU runs one kernel per utterance and layer instead.
    """
    fits = q_THd.dtype in (torch.bfloat16, torch.float16) and q_THd.shape[2] % 8 == 0 and q_THd.shape[2] <= 256
    return q_THd.is_cuda and fits and not dropout and torch.cuda.get_device_capability(q_THd.device) >= (8, 0)


class Attention(nn.Module):
    """Multi-head self-attention in which every utterance attends to itself only; no mask is ever built."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_TD: Tensor, spans: Spans) -> Tensor:
        """(T, D) -> (T, D)."""
        q_THd, k_THd, v_THd = (
            project(x_TD).unflatten(1, (self.heads, -1)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout, biases = self.dropout if self.training else 0.0, self.biases(x_TD, spans)
        if biases is None and flash_serves(q_THd, dropout):
            mixed_THd = self.all_at_once(q_THd, k_THd, v_THd, spans)
        else:
            mixed_THd = self.one_by_one(q_THd, k_THd, v_THd, spans.frames, dropout, biases)
        return self.out_proj(mixed_THd.flatten(1))

    def all_at_once(self, q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, spans: Spans) -> Tensor:
        """Attention of all utterances in one call of the flash kernel: (T, H, d)."""
        from torch.nn.attention.varlen import varlen_attn  # with it torch's compiler, a second of importing

        ends_B, longest = spans.ends_B, max(spans.frames)
        assert ends_B is not None
        return varlen_attn(q_THd, k_THd, v_THd, ends_B, ends_B, longest, longest)  # type: ignore[return-value]

    def one_by_one(
        self,
        q_THd: Tensor,
        k_THd: Tensor,
        v_THd: Tensor,
        frames: list[int],
        dropout: float,
        biases: list[Tensor] | None,
    ) -> Tensor:
        """Attention of one utterance after the other, wherever the flash kernel cannot serve: (T, H, d)."""
        q, k, v = (x_THd.transpose(0, 1)[None].split(frames, dim=2) for x_THd in (q_THd, k_THd, v_THd))
        rows = zip(q, k, v, biases or [None] * len(frames), strict=True)
        mixed = [attend(q_1HTd, k_1HTd, v_1HTd, dropout, bias) for q_1HTd, k_1HTd, v_1HTd, bias in rows]
        return torch.cat(mixed, dim=2)[0].transpose(0, 1)

    def biases(self, x_TD: Tensor, spans: Spans) -> list[Tensor] | None:
        """What is added to each utterance's scores; None: nothing."""
        return None


class GatedAttention(Attention):
    """WavLM's attention (Chen et al. 2022, section III-B): a bias by distance, whose strength each query frame gates.

    The table of distances belongs to the first layer, and all layers use it.
    """

    def __init__(self, config: Wav2Vec2Config, first: bool) -> None:
        super().__init__(config)
        self.buckets, self.furthest = config.num_buckets, config.max_bucket_distance
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.gru_rel_pos_linear = Linear(config.hidden_size // self.heads, 8)
        if first:
            self.rel_attn_embed = nn.Embedding(config.num_buckets, self.heads)

    def distances(self, frames: int) -> Tensor:
        """(H, T, T): the bias between every two of T frames; its top left corner is that of a shorter utterance."""
        position_T = torch.arange(frames, device=self.rel_attn_embed.weight.device)
        return self.rel_attn_embed(self.bucket(position_T[None] - position_T[:, None])).permute(2, 0, 1)

    def bucket(self, distance_TT: Tensor) -> Tensor:
        """Entry of the table for each distance: exact when near, then logarithmically wider; one half per direction."""
        half = self.buckets // 2
        exact = half // 2
        far_TT = distance_TT.abs()
        scale = (half - exact) / math.log(self.furthest / exact)
        wide_TT = exact + (torch.log(far_TT.clamp_min(1).float() / exact) * scale).long()
        return torch.where(far_TT < exact, far_TT, wide_TT.clamp_max(half - 1)) + half * (distance_TT > 0)

    def biases(self, x_TD: Tensor, spans: Spans) -> list[Tensor]:
        """Per utterance (1, H, T, T): the bias by distance times the gate of the query's frame."""
        frames, distance_HTT = spans.frames, spans.distance_HTT
        assert distance_HTT is not None
        gates_HT2 = self.gru_rel_pos_linear(x_TD.unflatten(1, (self.heads, -1))).unflatten(2, (2, 4)).sum(3).sigmoid()
        update_HT1, reset_HT1 = gates_HT2.transpose(0, 1).split(1, dim=2)
        gate_HT1 = update_HT1 * (reset_HT1 * self.gru_rel_pos_const[0] - 1) + 2
        pieces = gate_HT1.split(frames, dim=1)
        return [(piece * distance_HTT[:, :n, :n])[None] for piece, n in zip(pieces, frames, strict=True)]


ACTIVATIONS = {"gelu": F.gelu, "swish": F.silu, "silu": F.silu, "relu": F.relu}


class FeedForward(nn.Module):
    """Two linear maps with an activation between."""

    def __init__(self, config: Wav2Vec2Config, width: int = 0, activation: str = "") -> None:
        """width, activation: those of the config unless given."""
        super().__init__()
        width = width or config.hidden_size
        self.activation = ACTIVATIONS[activation or config.hidden_act]
        self.intermediate_dense = Linear(width, config.intermediate_size)
        self.output_dense = Linear(config.intermediate_size, width)
        self.activation_dropout = Dropout(config.activation_dropout)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.output_dense(self.activation_dropout(self.activation(self.intermediate_dense(x_TD))))


class PostNormLayer(nn.Module):
    """Transformer layer of BASE: x = norm(x + block(x))."""

    def __init__(self, config: Wav2Vec2Config, index: int) -> None:
        super().__init__()
        gated = config.gated_attention
        self.attention = GatedAttention(config, first=index == 0) if gated else Attention(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x_TD: Tensor, spans: Spans) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = self.layer_norm(x_TD + self.dropout(self.attention(x_TD, spans)))
        return self.final_layer_norm(x_TD + self.dropout(self.feed_forward(x_TD)))


class PreNormLayer(PostNormLayer):
    """Transformer layer of LARGE: x = x + block(norm(x))."""

    def forward(self, x_TD: Tensor, spans: Spans) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = x_TD + self.dropout(self.attention(self.layer_norm(x_TD), spans))
        return x_TD + self.dropout(self.feed_forward(self.final_layer_norm(x_TD)))


class Adapter(nn.Module):
    """A narrow feed-forward block, the only part of a layer that differs between languages (MMS, Pratap et al. 2023)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear_1 = Linear(config.hidden_size, config.adapter_width)
        self.linear_2 = Linear(config.adapter_width, config.hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.linear_2(F.relu(self.linear_1(self.norm(x_TD))))


class AdaptedLayer(PreNormLayer):
    """Transformer layer of MMS: that of LARGE, then the adapter of a language."""

    def __init__(self, config: Wav2Vec2Config, index: int) -> None:
        super().__init__(config, index)
        self.adapter_layer = Adapter(config)

    def forward(self, x_TD: Tensor, spans: Spans) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = super().forward(x_TD, spans)
        return x_TD + self.adapter_layer(x_TD)


def start_small(layers: nn.Module) -> None:
    """The linear maps of new layers as in BERT."""
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def states_of(
    layers: nn.ModuleList, x_TD: Tensor, places: Any, skip: frozenset[int], checkpointing: bool
) -> list[Tensor]:
    """The input of the first layer and the output of each, (T, D). places: what every layer needs to know about the batch. skip:
    layers whose output is their input (layer drop). checkpointing: keep only each layer's input for the backward pass and
    compute the rest again."""
    states = [x_TD]
    for index, layer in enumerate(layers):
        if index not in skip and checkpointing:
            x_TD = checkpoint(layer, x_TD, places, use_reentrant=False)  # type: ignore[assignment]
        elif index not in skip:
            x_TD = layer(x_TD, places)
        states.append(x_TD)
    return states


class ContextNetwork(nn.Module):
    """Positional convolution and transformer layers."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.pre_norm = config.do_stable_layer_norm
        stacked = config.stacked_positions
        self.pos_conv_embed = StackedPositionalConv(config) if stacked else PositionalConv(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        layer = (AdaptedLayer if config.adapter_width else PreNormLayer) if self.pre_norm else PostNormLayer
        self.layers = nn.ModuleList(layer(config, i) for i in range(config.num_hidden_layers))
        start_small(self.layers)

    def forward(
        self,
        x_TD: Tensor,
        frames: Sequence[int],
        skip: frozenset[int] = frozenset(),
        checkpointing: bool = False,
        whole: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """(T, D) -> L + 1 states (T, D): the first layer's input and every layer's output.

        skip, checkpointing: see states_of. whole: as in ConformerNetwork; here every frame is. As in transformers, the final norm
        is applied to the last state of a pre-LN model and to no other.
        """
        x_TD = x_TD + self.pos_conv_embed(x_TD, frames)
        x_TD = self.dropout(x_TD if self.pre_norm else self.layer_norm(x_TD))
        ends_B = on_device([0, *accumulate(frames)], x_TD.device, torch.int32) if x_TD.is_cuda else None
        spans = Spans(list(frames), ends_B, self.distances(frames))
        states = states_of(self.layers, x_TD, spans, skip, checkpointing)
        if self.pre_norm:
            states[-1] = self.layer_norm(states[-1])
        return states

    def distances(self, frames: Sequence[int]) -> Tensor | None:
        """WavLM's bias by distance (H, T, T) for the longest utterance; no other family has one."""
        first = self.layers[0].attention if len(self.layers) else None
        return first.distances(max(frames)) if isinstance(first, GatedAttention) else None
