"""BYOL-S model folders (config.json + model.safetensors), and the published weights as they were published (.pth)."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from speechssl.errors import InputError
from speechssl.interop.huggingface import CONFIG, WEIGHTS, read_weights
from speechssl.models.byols import ByolsConfig, ByolsModel

MODEL_TYPE = "byol-s"
CREMA_D_STATS = (-4.99372816, 3.13660264)  # SERAB's, the only ones published with these weights


def save_byols(folder: Path, model: ByolsModel, facts: dict[str, Any], *, half: bool = False) -> None:
    """Write a model folder; `facts` (training data, step, objective ...) go under "speechssl" in config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = asdict(model.config) | {"architectures": ["ByolsModel"], "model_type": MODEL_TYPE, "speechssl": facts}
    (folder / CONFIG).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if half:  # statistics keep their precision
        state = {k: v.half() if k.endswith((".weight", ".bias")) else v for k, v in state.items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def load_byols(folder: Path, raw: dict[str, Any]) -> ByolsModel:
    """The model of a folder whose config.json is `raw`, on the CPU, in evaluation mode."""
    known = {field.name for field in fields(ByolsConfig)}
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items() if key in known}
    try:
        model = ByolsModel(ByolsConfig(**values))
    except (TypeError, InputError) as error:
        raise InputError(f"{folder / CONFIG} cannot be used: {error}") from None
    fill(model, read_weights(folder), folder / WEIGHTS)
    return model.eval()


def fill(model: torch.nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load all weights; InputError when one is missing or does not fit."""
    own = model.state_dict()
    for key, value in own.items():
        if key not in state or state[key].shape != value.shape:
            problem = f"has shape {tuple(state[key].shape)}" if key in state else "is missing"
            raise InputError(f"{source} does not fit its config: {key} {problem}; it belongs to another model")
    model.load_state_dict({key: state[key].to(value.dtype) for key, value in own.items()})


def read_published(path: Path, frontend: str = "byol-s", stats: tuple[float, float] = CREMA_D_STATS) -> ByolsModel:
    """A state dict as the authors of BYOL-S or BYOL-A published it; its sizes are read off its shapes.

    frontend: the log-mel flavour it was trained on ("librosa" for BYOL-A's). stats: mean and standard deviation of the
    log-mels, which no published file holds; the default are SERAB's for CREMA-D.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        config = ByolsConfig(frontend=frontend, **published_sizes(state))  # type: ignore[arg-type]
    except Exception as error:  # any damage shows as its own type here
        raise InputError(
            f"{path} is not a published BYOL-S state dict ({error}); give a model folder instead"
        ) from None
    model = ByolsModel(config)
    fill(model.encoder, state, path)
    model.mel_stats.copy_(torch.tensor(stats))
    return model.eval()


def published_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """The architecture that a published state dict belongs to."""
    if "layers.0.0.weight" in state:
        dims = tuple(len(state[f"layers.{i}.0.weight"]) for i in range(3))
        return {"encoder": "cvt", "dims": dims, "pool": "mean+max" if dims == (64, 256, 512) else "mean"}
    if "layer1.0.conv1.weight" in state:
        return {"encoder": "resnetish34"}
    width, channels = len(state["fc.3.weight"]), len(state["features.0.weight"])
    if "features.8.weight" in state:
        return {"encoder": "audiontt2020", "width": width, "channels": channels}
    return {"encoder": "audiontt2022", "width": width + state["fc.0.weight"].shape[1], "channels": channels}
