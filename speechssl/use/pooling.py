"""Which layers of a model an embedding takes, and how frames become one vector."""

from typing import Any

import numpy as np

from speechssl.core.errors import InputError

POOLS = ("model", "mean", "mean+max", "none")


def choose_layers(layer: int | str, model: Any) -> list[int]:
    """Indices of the hidden states of a SpeechModel that `layer` means: "best", "last", a number, "all" or "weighted"."""
    count = model.model.layers
    if layer == "best":
        return [model.best_layer]
    if layer == "last":
        return [count - 1]
    if keeps_layers(layer):
        return list(range(count))
    try:
        index = int(layer)
    except ValueError:
        raise InputError(
            f"layer = {layer!r} is not known; use best, last, all, weighted or 0 ... {count - 1}"
        ) from None
    if not -count <= index < count:
        raise InputError(f"layer = {index} does not exist; the model has 0 (input of the first layer) ... {count - 1}")
    return [index % count]


def keeps_layers(layer: int | str) -> bool:
    """Whether embeddings have an axis of layers."""
    return layer in ("all", "weighted")


def check_pool(pool: str) -> None:
    """InputError for an unknown way of pooling."""
    if pool not in POOLS:
        raise InputError(f"pool = {pool!r} is not known; use one of {', '.join(POOLS)}")


def pooled(model: Any, mean_LD: np.ndarray, largest_LD: np.ndarray, pool: str) -> np.ndarray:
    """Mean and maximum over time -> (L, D) for mean and model (as the authors of the model pool), (L, 2 D) for mean+max."""
    if pool == "mean+max":
        return np.concatenate([mean_LD, largest_LD], axis=1)
    return model.model.pool(mean_LD, largest_LD) if pool == "model" else mean_LD
