"""Fine-tuning of a part: the top layers, or adapters (MMS, Pratap et al. 2023), each with the output layer."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.protocol import Encoder
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.models.wav2vec2.names import BODY

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


def freeze(model: Encoder, train_layers: int | None, *, adapters: bool = False, features: bool = True) -> None:
    """Keep what does not learn from having gradients and moments; reports the share that learns, if a part was asked for.

    train_layers: only so many of the top layers learn, and the head (None: all). adapters: of these only the adapters. features:
    whether the stage that reads the audio learns. InputError for more layers than there are.
    """
    stages = model.stages()
    layers = sum(".layers." in stage for stage in stages) or len(stages)
    if train_layers is not None and train_layers > layers:
        raise InputError(f"objective.train_layers = {train_layers}, but the network has {layers}")
    top = stages if train_layers is None else stages[len(stages) - train_layers :]
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        stage = stage_of(name, stages)
        learns = stage in top and (features or stage != stages[0]) and (not adapters or ADAPTER in name)
        if stage and not learns and not name.startswith(ABOVE):
            parameter.requires_grad_(False)
    total = sum(parameter.numel() for parameter in parameters.values())
    learning = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    if train_layers is not None or adapters:
        dist.report(f"{learning:,} of {total:,} weights learn ({learning / total:.1%})")


def stage_of(name: str, stages: Sequence[str]) -> str:
    """The stage of a network that a parameter belongs to; "" for a head."""
    return max((stage for stage in stages if name.startswith(stage)), key=len, default="")
