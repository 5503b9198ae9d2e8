"""The context network (wav2vec 2.0, section 2): relative positions by convolution, then a transformer, on packed frames.

Frames of all utterances lie end to end as (T, D); `frames` tells where each ends. Both layer-norm styles: BASE
normalises after each block (post-LN), LARGE before it (pre-LN). Parameter names are transformers'.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from speechssl.models.config import Wav2Vec2Config


class PositionalConv(nn.Module):
    """Grouped convolution over time (kernel 128) whose output is added to its input: a relative position embedding."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        self.reach = kernel // 2
        conv = nn.Conv1d(width, width, kernel, groups=config.num_conv_pos_embedding_groups)
        nn.init.normal_(conv.weight, std=(4 * (1 - config.hidden_dropout) / (kernel * width)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv, dim=2)

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """(T, D) -> (T, D). Gaps of half a kernel of zeros are each utterance's "same" padding; neighbours share them."""
        gap_D = x_TD.new_zeros(self.reach, x_TD.shape[1])
        spaced = [gap_D]
        for piece_TD in x_TD.split(list(frames)):
            spaced += [piece_TD, gap_D]
        y_TD = F.gelu(self.conv(torch.cat(spaced).T)).T
        sizes = [size for n in frames for size in (n, self.reach)]
        sizes[-1] = len(y_TD) - sum(sizes[:-1])
        return torch.cat(y_TD.split(sizes)[::2])


def attend(q_1HTd: Tensor, k_1HTd: Tensor, v_1HTd: Tensor, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(d)) v. On the CPU in bf16 spelled out, for torch's fused kernel is 2.5 to 4 times slower there."""
    if q_1HTd.device.type != "cpu" or q_1HTd.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q_1HTd, k_1HTd, v_1HTd, dropout_p=dropout)
    scores_1HTT = (q_1HTd * q_1HTd.shape[-1] ** -0.5) @ k_1HTd.transpose(2, 3)
    return F.dropout(scores_1HTT.softmax(dim=-1), dropout) @ v_1HTd


class Attention(nn.Module):
    """Multi-head self-attention in which every utterance attends to itself only; no mask is ever built."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """(T, D) -> (T, D)."""
        q_HTd, k_HTd, v_HTd = (
            project(x_TD).unflatten(1, (self.heads, -1)).transpose(0, 1)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        pieces = (x_HTd[None].split(list(frames), dim=2) for x_HTd in (q_HTd, k_HTd, v_HTd))
        mixed = [attend(q, k, v, dropout) for q, k, v in zip(*pieces, strict=True)]
        return self.out_proj(torch.cat(mixed, dim=2)[0].transpose(0, 1).flatten(1))


class FeedForward(nn.Module):
    """Two linear maps with GELU between."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.output_dense(self.activation_dropout(F.gelu(self.intermediate_dense(x_TD))))


class PostNormLayer(nn.Module):
    """Transformer layer of BASE: x = norm(x + block(x))."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = self.layer_norm(x_TD + self.dropout(self.attention(x_TD, frames)))
        return self.final_layer_norm(x_TD + self.dropout(self.feed_forward(x_TD)))


class PreNormLayer(PostNormLayer):
    """Transformer layer of LARGE: x = x + block(norm(x))."""

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> Tensor:
        """(T, D) -> (T, D)."""
        x_TD = x_TD + self.dropout(self.attention(self.layer_norm(x_TD), frames))
        return x_TD + self.dropout(self.feed_forward(self.final_layer_norm(x_TD)))


class ContextNetwork(nn.Module):
    """Positional convolution and transformer layers; `dropped` names the layers that this training step skips."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.pre_norm = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConv(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        layer = PreNormLayer if self.pre_norm else PostNormLayer
        self.layers = nn.ModuleList(layer(config) for _ in range(config.num_hidden_layers))
        self.dropped: frozenset[int] = frozenset()
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_TD: Tensor, frames: Sequence[int]) -> list[Tensor]:
        """(T, D) -> L + 1 states (T, D): the first layer's input and every layer's output.

        As in transformers, the last state of a pre-LN model has the final norm applied and the others have not.
        """
        x_TD = x_TD + self.pos_conv_embed(x_TD, frames)
        x_TD = self.dropout(x_TD if self.pre_norm else self.layer_norm(x_TD))
        states = [x_TD]
        for index, layer in enumerate(self.layers):
            if not (self.training and index in self.dropped):
                x_TD = layer(x_TD, frames)
            states.append(x_TD)
        if self.pre_norm:
            states[-1] = self.layer_norm(x_TD)
        return states
