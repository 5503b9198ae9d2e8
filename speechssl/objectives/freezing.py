"""Fine-tuning of a part: the top layers, or adapters (MMS, Pratap et al. 2023), each with the output layer."""

import re
from dataclasses import replace
from typing import Any

from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.models.wav2vec2.names import BODY

LAYER = re.compile(re.escape(BODY) + r"encoder\.layers\.(\d+)\.")
ABOVE = (BODY + "adapter.", BODY + "intermediate_ffn.")  # between the last layer and the output layer
ADAPTER = ".adapter_layer."


def adapted(config: Wav2Vec2Config, width: int, source: str) -> Wav2Vec2Config:
    """The config with an adapter of so many numbers after each layer (0: as it is). InputError if the network cannot have it."""
    if not width or width == config.adapter_width:
        return config
    if config.adapter_width:
        raise InputError(f"objective.adapters = {width}, but {source} has adapters of width {config.adapter_width}")
    if not config.do_stable_layer_norm or config.gated_attention:
        raise InputError(
            f"objective.adapters = {width}: adapters go into pre-LN networks of wav2vec 2.0 or HuBERT (LARGE, XLS-R, small), "
            f"which {source} is not; objective.train_layers trains a part of any network"
        )
    return replace(config, adapter_width=width)


def with_new_adapters(model: Wav2Vec2ForCTC, start: Checkpoint) -> Checkpoint:
    """The checkpoint with the model's own adapters where it has none."""
    new: dict[str, Tensor] = {name: value for name, value in model.state_dict().items() if ADAPTER in name}
    return replace(start, state=new | start.state)


def freeze(model: Wav2Vec2ForCTC, config: Any) -> None:
    """Keep what does not learn from having gradients and moments; reports the share that learns, where the user chose a part.
    config: objective.adapters, train_layers and feature_grad. InputError for more layers than there are."""
    layers = model.config.num_hidden_layers
    if config.train_layers is not None and config.train_layers > layers:
        raise InputError(f"objective.train_layers = {config.train_layers}, but the network has {layers}")
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if not learns(name, layers, config):
            parameter.requires_grad_(False)
    total = sum(parameter.numel() for parameter in parameters.values())
    learning = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    if config.adapters or config.train_layers is not None:
        dist.report(f"{learning:,} of {total:,} weights learn ({learning / total:.1%})")


def learns(name: str, layers: int, config: Any) -> bool:
    """Whether a parameter is trained; every head is."""
    if not name.startswith(BODY):
        return True
    place = LAYER.match(name)
    if config.train_layers is not None and not (place and int(place[1]) >= layers - config.train_layers):
        return name.startswith(ABOVE)
    if config.adapters:
        return ADAPTER in name or name.startswith(ABOVE)
    return config.feature_grad > 0 or not name.startswith(BODY + "feature_extractor.")
