"""The arithmetic of a step, derived from the config, and the arithmetic that the machine can do."""

import time
from collections.abc import Sequence

import torch

from speechssl.models.kernels.products import onednn_serves, product
from speechssl.models.wav2vec2.config import Wav2Vec2Config

TASKS = ("pretrain", "finetune", "embed")


def step_flops(
    config: Wav2Vec2Config, task: str, samples: Sequence[int], masked: Sequence[int] = (), vocab: int = 0
) -> float:
    """Floating-point operations of one step on utterances of these lengths (a multiplication and an addition are two).

    masked: masked frames of each utterance. The backward pass is twice the forward pass, but no gradient of the waves
    themselves is needed, and fine-tuning leaves the convolutions as they are.
    """
    shapes = list(zip((1, *config.conv_dim), config.conv_dim, config.conv_kernel, strict=False))
    first = encoder = context = 0.0
    for length in samples:
        products = [config.geometry.frames(length, i) * a * b * k for i, (a, b, k) in enumerate(shapes, 1)]
        first += 2.0 * products[0]
        encoder += 2.0 * sum(products)
        context += context_flops(config, config.geometry.frames(length))
    if task == "embed":
        return encoder + context
    if task == "finetune":
        head = 2.0 * sum(config.geometry.frames(length) for length in samples) * config.hidden_size * vocab
        return encoder + 3 * (context + head)
    loss = sum(loss_flops(config, frames) for frames in masked)
    return 3 * (encoder + context + loss) - first


def context_flops(config: Wav2Vec2Config, frames: int) -> float:
    """Projection, positional convolution and transformer layers for one utterance: matrix products only."""
    width, inner = config.hidden_size, config.intermediate_size
    position = width * width / config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings
    layer = 4 * width * width + 2 * width * inner + 2 * frames * width
    return 2.0 * frames * (config.conv_dim[-1] * width + position + config.num_hidden_layers * layer)


def loss_flops(config: Wav2Vec2Config, masked: int) -> float:
    """Quantizer, both projections and all similarities of the contrastive loss for one utterance of `masked` frames."""
    codes = config.num_codevector_groups * config.num_codevectors_per_group
    width, meeting = config.codevector_dim, config.proj_codevector_dim
    each = config.conv_dim[-1] * codes + codes * width / config.num_codevector_groups
    return 2.0 * masked * (each + width * meeting + config.hidden_size * meeting + masked * meeting)


def matmul_peak(dtype: str, device: str, seconds: float = 1.0, size: int = 2048) -> float:
    """Operations per second of the fastest of many square products, by torch and, where it serves this processor, by oneDNN."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    ways = [torch.matmul, product] if onednn_serves(left, kind) else [torch.matmul]
    fastest = float("inf")
    for multiply in ways:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds / len(ways):
            started = time.perf_counter()
            multiply(left, right)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - started)
    return 2.0 * size**3 / fastest
