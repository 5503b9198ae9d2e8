"""BYOL-S model folders: config.json + model.safetensors."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch

from speechssl.core.config import coerce
from speechssl.core.errors import InputError
from speechssl.models.byols.model import ByolsConfig, ByolsForSequenceClassification, ByolsModel
from speechssl.models.checkpoint import Checkpoint, as_float, check_fit
from speechssl.models.folder import CONFIG, WEIGHTS, described, read_weights, write_json, write_tensors
from speechssl.sound.audio import SAMPLE_RATE

HEAD = "classifier.weight"


def write(folder: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """A checkpoint as a model folder; half: weights in 16 bits, statistics as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    config = checkpoint.config
    name = "ByolsForSequenceClassification" if HEAD in checkpoint.state else "ByolsModel"
    raw = checkpoint.raw | asdict(config) | {"architectures": [name], "model_type": config.model_type}
    write_json(folder / CONFIG, raw)
    state = {}
    for key, value in checkpoint.state.items():
        state[key] = value.half() if half and key.endswith((".weight", ".bias")) else value
    write_tensors(folder, state)


def read(folder: Path, raw: dict[str, Any], language: str = "") -> Checkpoint:
    """A model folder, whose config.json is `raw`, as a checkpoint; InputError for a `language`: there are no adapters."""
    if language:
        raise InputError(f"{folder} is a BYOL-S model, without adapters for languages such as {language!r}")
    kinds = get_type_hints(ByolsConfig)
    known = [field.name for field in fields(ByolsConfig) if field.name in raw]
    try:
        config = ByolsConfig(**{name: coerce(raw[name], kinds[name], name, "it") for name in known})
    except (TypeError, InputError) as error:
        raise InputError(f"{folder / CONFIG} cannot be used: {error}") from None
    return Checkpoint(config=config, state=read_weights(folder, raw), raw=raw, source=str(folder / WEIGHTS))


def layout(checkpoint: Checkpoint) -> ByolsModel:
    """The module for a checkpoint's config and head, its weights not yet those of the checkpoint."""
    if HEAD in checkpoint.state:
        return ByolsForSequenceClassification(checkpoint.config, len(checkpoint.state[HEAD]))
    return ByolsModel(checkpoint.config)


def build(checkpoint: Checkpoint) -> ByolsModel:
    """The model in float32 on the CPU, in evaluation mode; InputError when a tensor is missing or has another shape."""
    with torch.device("meta"):  # nothing is allocated by what a config.json says
        check_fit(layout(checkpoint), checkpoint.state, checkpoint.source)
    model = layout(checkpoint)  # its filters are in no file, and its layout in memory is its own
    model.load_state_dict({key: as_float(checkpoint.state[key]) for key in model.state_dict()})
    return model.eval()


def classifier(start: Checkpoint, classes: int, **settings: Any) -> ByolsForSequenceClassification:
    """A network of the sizes of `start`, and with its encoder if it has weights, that tells `classes` apart."""
    model = ByolsForSequenceClassification(replace(start.config, dropout=settings["final_dropout"]), classes)
    if start.state:
        own = {key: as_float(value) for key, value in start.state.items() if not key.startswith("classifier.")}
        check_fit(ByolsModel(start.config), own, start.source)
        model.load_state_dict(own, strict=False)
    return model


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """The model as lines of name and value, for `speechssl info`."""
    config = checkpoint.config
    return {
        "format": "the format of speechssl",
        "layers": f"encoder {config.encoder}, its frames pooled by {config.pool}",
        "frame rate": f"{SAMPLE_RATE / config.geometry.hop:g} Hz, on the {config.frontend} log-mels of {SAMPLE_RATE} Hz",
        "head": described(checkpoint.raw, len(checkpoint.state[HEAD])) if HEAD in checkpoint.state else "none",
    }
