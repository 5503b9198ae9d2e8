"""AdamW and the learning-rate schedules as functions of the update number."""

import torch
from torch import nn

from speechssl.objectives.recipe import OptimConfig


def build_optimizer(model: nn.Module, rates: dict[str, float], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over every weight (fairseq's Adam decays all of them too), in one fused kernel.

    rates: for parameters whose names start so, the multiple of the learning rate.
    """
    named = dict(model.named_parameters())
    groups = []
    for prefix, scale in {**rates, "": 1.0}.items():
        chosen = [named.pop(name) for name in list(named) if name.startswith(prefix)]
        groups.append({"params": chosen, "scale": scale})
    groups = [group for group in reversed(groups) if group["params"]]
    return torch.optim.AdamW(
        groups, config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of update `step` (from 0) of `steps`."""
    done, warmup = (step + 1) / steps, config.warmup
    if config.schedule == "polynomial":
        rising = done / warmup if done < warmup else 1.0
        left = (1 - step / steps) / (1 - warmup) if warmup < 1 else 1.0
        return config.lr * min(rising, min(left, 1.0) ** config.power)
    if done < warmup:
        return config.lr * (0.01 + 0.99 * done / warmup)
    fallen = max(0.0, (done - warmup - config.hold) / max(1e-9, 1 - warmup - config.hold))
    return config.lr * 0.05 ** min(fallen, 1.0)
