"""The arithmetic of a step, derived from the config, and the arithmetic that the machine can do."""

import time
from collections.abc import Sequence

import torch

from speechssl.models.kernels.products import onednn_serves, product
from speechssl.models.wav2vec2.config import Wav2Vec2Config

TASKS = ("pretrain", "finetune", "embed", "transcribe")


def encoder_flops(config: Wav2Vec2Config, samples: int) -> list[float]:
    """Floating-point operations (a multiplication and an addition are two) of each convolution for one utterance."""
    inputs = (1, *config.conv_dim)
    shapes = zip(inputs, config.conv_dim, config.conv_kernel, strict=False)
    return [2.0 * config.geometry.frames(samples, i) * a * b * k for i, (a, b, k) in enumerate(shapes, 1)]


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


def step_flops(
    config: Wav2Vec2Config, task: str, samples: Sequence[int], *, masked: Sequence[int] = (), vocab: int = 0
) -> float:
    """Operations of one step on utterances of these lengths. The backward pass of a training step is twice the forward pass.

    Fine-tuning leaves the convolutions as they are, and no gradient of the waves themselves is needed.
    """
    convolutions = [encoder_flops(config, n) for n in samples]
    first, encoder = sum(row[0] for row in convolutions), sum(map(sum, convolutions))
    frames = [config.geometry.frames(n) for n in samples]
    context = sum(context_flops(config, n) for n in frames)
    head = 2.0 * sum(frames) * config.hidden_size * vocab
    if task == "pretrain":
        return 3 * (encoder + context + sum(loss_flops(config, n) for n in masked)) - first
    if task == "finetune":
        return encoder + 3 * (context + head)
    return encoder + context + (head if task == "transcribe" else 0.0)


def matmul_peaks(dtype: torch.dtype, device: str, seconds: float = 1.0, size: int = 2048) -> dict[str, float]:
    """Operations per second of the fastest of many square matrix products of `size`: by torch's own product and, on a CPU that
    has instructions for `dtype`, by oneDNN."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    ways = {"torch": lambda: left @ right}
    if onednn_serves(left, left.dtype):
        ways["onednn"] = lambda: product(left, right)
    best = {}
    for name, multiply in ways.items():
        fastest, began = float("inf"), time.perf_counter()
        while time.perf_counter() - began < seconds / len(ways):
            started = time.perf_counter()
            multiply()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - started)
        best[name] = 2.0 * size**3 / fastest
    return best
