"""A model between formats: every reader makes a `Checkpoint`, every writer takes one, and `build` makes the module.

Nothing is allocated by what a config says: its sizes are compared with the tensors first, and the module is laid out on
the meta device and then given the tensors of the file.
"""

from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.models.byols.model import ByolsConfig, ByolsModel
from speechssl.models.wav2vec2.model import (
    Headless,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
)
from speechssl.models.wav2vec2.names import BODY, WEIGHT_NORM_V
from speechssl.text.tokenizer import CharTokenizer

MASK = BODY + "masked_spec_embed"
FAMILIES = {  # model_type: (what transformers calls its classes, the prefix of its tensors)
    "wav2vec2": ("Wav2Vec2", "wav2vec2."),
    "hubert": ("Hubert", "hubert."),
    "wavlm": ("WavLM", "wavlm."),
    "data2vec-audio": ("Data2VecAudio", "data2vec_audio."),
}


@dataclass(kw_only=True)
class Checkpoint:
    """config: the architecture, Wav2Vec2Config or ByolsConfig. state: tensors as they are in the file, by transformers'
    names, the body under `wav2vec2.` in every family; BYOL-S's by its own. raw: all that its config.json says, so that
    nothing is lost on the way. source: for messages."""

    config: Any
    state: dict[str, Tensor]
    tokenizer: CharTokenizer | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    source: str

    @property
    def head(self) -> str:
        """What transformers' class for the tensors at hand is called after the family: ForCTC, ForPreTraining ... Model."""
        if "lm_head.weight" in self.state:
            return "ForCTC"
        if {"quantizer.codevectors", "project_hid.weight", "project_q.weight"} <= set(self.state):
            return "ForPreTraining"
        if {"projector.weight", "classifier.weight"} <= set(self.state) and "tdnn.0.kernel.weight" not in self.state:
            return "ForSequenceClassification"
        return "Model"


def require_wav2vec2(config: Any, source: str, purpose: str) -> None:
    """InputError for a BYOL-S model, where only the families of wav2vec 2.0 will do."""
    if isinstance(config, ByolsConfig):
        raise InputError(
            f"{source} is a BYOL-S model, and {purpose} needs one of the wav2vec 2.0 family ({', '.join(FAMILIES)}); "
            "embed, probe, benchmark and pretrain with a BYOL-S recipe work"
        )


def checkpoint_of(
    model: Any, tokenizer: CharTokenizer | None, raw: dict[str, Any], extra: dict[str, Tensor] | None = None
) -> Checkpoint:
    """A module as a checkpoint; `raw` and `extra` (tensors it has no use for) are of the file it came from, if any."""
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    if not (raw.get("mask_time_prob", 1) or raw.get("mask_feature_prob", 0)):
        state.pop(MASK)  # transformers makes no mask vector for a model that never masks
    return Checkpoint(
        config=model.config, state=state | (extra or {}), tokenizer=tokenizer, raw=raw, source="the model"
    )


def infer(state: dict[str, Tensor], source: str) -> dict[str, Any]:
    """The fields of the config that the tensors alone decide. InputError if they are of another kind of model."""
    shape = {key.removeprefix(BODY): tuple(value.shape) for key, value in state.items()}

    def numbered(name: str) -> list[str]:
        return list(takewhile(lambda key: key in shape, (name.format(i) for i in count())))

    convs = numbered("feature_extractor.conv_layers.{}.conv.weight")
    layers = numbered("encoder.layers.{}.final_layer_norm.weight")
    try:
        fields: dict[str, Any] = {
            "conv_dim": tuple(shape[key][0] for key in convs),
            "conv_kernel": tuple(shape[key][2] for key in convs),
            "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in shape,
            "feat_extract_norm": "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in shape else "group",
            "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in shape,
            "hidden_size": shape["feature_projection.projection.weight"][0],
            "num_hidden_layers": len(layers),
            "intermediate_size": shape["encoder.layers.0.feed_forward.intermediate_dense.weight"][0],
        }
        return fields | position_fields(shape, numbered) | optional_fields(shape)
    except (KeyError, IndexError) as error:
        raise InputError(
            f"{source} lacks {error.args[0]}, or it has another shape there: not a model of the wav2vec 2.0 family "
            "(wav2vec2, hubert, wavlm, data2vec-audio), or not all of it"
        ) from None


def position_fields(shape: dict[str, tuple[int, ...]], numbered: Any) -> dict[str, Any]:
    """Those of the positional convolution: one with weight norm, one with batch norm, or data2vec's stack."""
    stack = numbered("encoder.pos_conv_embed.layers.{}.conv.weight")
    plain, normed = "encoder.pos_conv_embed.conv.weight", f"encoder.pos_conv_embed.conv.{WEIGHT_NORM_V}"
    width, inner, kernel = shape[stack[0] if stack else plain if plain in shape else normed]
    fields: dict[str, Any] = {"num_conv_pos_embedding_groups": width // max(1, inner)}
    if stack:
        return fields | {"num_conv_pos_embeddings": len(stack), "conv_pos_kernel_size": kernel}
    return fields | {"num_conv_pos_embeddings": kernel, "conv_pos_batch_norm": plain in shape}


def optional_fields(shape: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Those of WavLM's attention, of MMS's adapters and of the quantizer, where there are any."""
    fields: dict[str, Any] = {}
    table, adapter = (
        "encoder.layers.0.attention.rel_attn_embed.weight",
        "encoder.layers.0.adapter_layer.linear_1.weight",
    )
    if table in shape:
        fields |= {"num_buckets": shape[table][0], "num_attention_heads": shape[table][1]}
    if adapter in shape:
        fields |= {"adapter_width": shape[adapter][0]}
    if {"quantizer.codevectors", "project_q.weight"} <= set(shape):
        _, entries, width = shape["quantizer.codevectors"]
        total = shape["project_q.weight"][1]
        groups = total // max(1, width)
        fields |= {"codevector_dim": total, "proj_codevector_dim": shape["project_q.weight"][0]}
        fields |= {"num_codevector_groups": groups, "num_codevectors_per_group": entries // max(1, groups)}
    return fields


def family_of(state: dict[str, Tensor]) -> str | None:
    """The family, where the tensors alone tell it: HuBERT's are named as wav2vec 2.0's."""
    if f"{BODY}encoder.layers.0.attention.gru_rel_pos_const" in state:
        return "wavlm"
    return "data2vec-audio" if f"{BODY}encoder.pos_conv_embed.layers.0.conv.weight" in state else None


def check_sizes(checkpoint: Checkpoint) -> None:
    """InputError, before anything is built, when the config's sizes are not those of the tensors."""
    inferred, family = infer(checkpoint.state, checkpoint.source), family_of(checkpoint.state)
    if family:
        inferred["model_type"] = family
    for name, value in inferred.items():
        said = getattr(checkpoint.config, name)
        if said != value:
            raise InputError(
                f"{checkpoint.source} does not fit its config.json, which says {name} = {short(said)} where the tensors "
                f"have {short(value)}; the two files belong to different models"
            )


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = str(value)
    return text if len(text) < 80 else text[:77] + "..."


def layout(checkpoint: Checkpoint) -> Any:
    """The module for a checkpoint's config and head."""
    config, state = checkpoint.config, checkpoint.state
    if isinstance(config, ByolsConfig):
        return ByolsModel(config)
    if checkpoint.head == "ForCTC":
        return Wav2Vec2ForCTC(config, vocab_size=len(state["lm_head.weight"]))
    if checkpoint.head == "ForPreTraining":
        return Wav2Vec2ForPreTraining(config)
    if checkpoint.head == "ForSequenceClassification":
        width, classes = len(state["projector.weight"]), len(state["classifier.weight"])
        return Wav2Vec2ForSequenceClassification(config, width, classes, weighted="layer_weights" in state)
    return Headless(config)


def build(checkpoint: Checkpoint) -> Any:
    """The model in float32 on the CPU, in evaluation mode; InputError when a tensor is missing or has another shape."""
    byols = isinstance(checkpoint.config, ByolsConfig)
    if not byols:
        check_sizes(checkpoint)
    with torch.device("meta"):
        model = layout(checkpoint)
    state = checkpoint.state
    if MASK not in state and not byols:  # transformers leaves it out of models that never mask
        state = state | {MASK: torch.zeros(checkpoint.config.hidden_size)}
    check_fit(model, state, checkpoint.source, need="")
    own = {key: state[key] for key in model.state_dict()}
    if byols:  # its filters are in no file, and its weights keep the layout in memory that the module gave them
        model = layout(checkpoint)
    model.load_state_dict({key: as_float(value) for key, value in own.items()}, assign=not byols)
    return model.eval()


def extra_tensors(checkpoint: Checkpoint, model: nn.Module) -> dict[str, Tensor]:
    """What the file holds and the model has no place for: kept, to be written back."""
    own = model.state_dict()
    return {key: value for key, value in checkpoint.state.items() if key not in own}


def check_fit(model: nn.Module, state: dict[str, Tensor], source: str, need: str) -> None:
    """InputError when a weight whose name starts with `need` is missing or a shape differs."""
    own = model.state_dict()
    missing = [key for key in own if key.startswith(need) and key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        problem = f"{missing[0]} is missing" if missing else f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}"
        raise InputError(f"{source} does not fit its config.json: {problem}; the two files belong to different models")


def copy_weights(model: nn.Module, state: dict[str, Tensor], source: str, need: str) -> None:
    """Copy `state` into `model`; InputError when a weight under the prefix `need` is missing or a shape differs."""
    own = model.state_dict()
    if MASK not in state:
        state = state | {MASK: own[MASK]}
    check_fit(model, state, source, need)
    model.load_state_dict({key: as_float(value) for key, value in state.items() if key in own}, strict=False)


def as_float(value: Tensor) -> Tensor:
    """Float32, unless it counts something (batch norm's batches)."""
    return value.float() if value.is_floating_point() else value
