"""The sizes that the tensors of a wav2vec 2.0 checkpoint show, and the module that they make.

Nothing is allocated by what a config says: its sizes are compared with the tensors first, and the module is laid out on
the meta device and then given the tensors of the file.
"""

from dataclasses import replace
from itertools import count, takewhile
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.models.checkpoint import Checkpoint, as_float, check_fit
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import (
    Wav2Vec2Encoder,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
)
from speechssl.models.wav2vec2.names import BODY, WEIGHT_NORM_V

MASK = BODY + "masked_spec_embed"
CONFORMER = "encoder.layers.0.conv_module.depthwise_conv.weight"
DEPTHWISE_NORM = "encoder.layers.0.conv_module.depthwise_layer_norm.weight"


def head_of(state: dict[str, Tensor]) -> str:
    """The end of the name of transformers' class for these tensors: ForCTC, ForPreTraining ... Model."""
    if "lm_head.weight" in state:
        return "ForCTC"
    if {"quantizer.codevectors", "project_hid.weight", "project_q.weight"} <= set(state):
        unispeech = {"ctc_proj.weight", "label_embeddings_concat"} & set(state)  # their quantizers serve other losses
        return "Model" if unispeech else "ForPreTraining"
    if {"projector.weight", "classifier.weight"} <= set(state) and "tdnn.0.kernel.weight" not in state:
        return "ForSequenceClassification"
    return "Model"


def infer(state: dict[str, Tensor], source: str) -> dict[str, Any]:
    """The fields of the config that the tensors alone decide. InputError if they are of another kind of model."""
    shape = {key.removeprefix(BODY): tuple(value.shape) for key, value in state.items()}

    def numbered(name: str) -> list[str]:
        return list(takewhile(lambda key: key in shape, (name.format(i) for i in count())))

    convs = numbered("feature_extractor.conv_layers.{}.conv.weight")
    layers = numbered("encoder.layers.{}.final_layer_norm.weight")
    conformer, log_mel = CONFORMER in shape, DEPTHWISE_NORM in shape
    block = "ffn1" if conformer else "feed_forward"
    try:
        fields: dict[str, Any] = {
            "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in shape,
            "hidden_size": shape["feature_projection.projection.weight"][0],
            "num_hidden_layers": len(layers),
            "intermediate_size": shape[f"encoder.layers.0.{block}.intermediate_dense.weight"][0],
        }
        if not log_mel:
            fields |= conv_fields(shape, convs) | position_fields(shape, numbered)
        fields |= conformer_fields(shape) if conformer else {}
        return fields | adapter_fields(shape, numbered) | optional_fields(shape)
    except (KeyError, IndexError) as error:
        raise InputError(
            f"{source} lacks {error.args[0]}, or it has another shape there: not a model of the wav2vec 2.0 family "
            f"({', '.join(get_args(get_type_hints(Wav2Vec2Config)['model_type']))}), or not all of it"
        ) from None


def conv_fields(shape: dict[str, tuple[int, ...]], convs: list[str]) -> dict[str, Any]:
    """Those of the convolutional encoder."""
    return {
        "conv_dim": tuple(shape[key][0] for key in convs),
        "conv_kernel": tuple(shape[key][2] for key in convs),
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in shape,
        "feat_extract_norm": "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in shape else "group",
    }


def conformer_fields(shape: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Those of conformer layers."""
    attention = "encoder.layers.0.self_attn."
    fields: dict[str, Any] = {"conv_depthwise_kernel_size": shape[CONFORMER][2]}
    if attention + "pos_bias_u" in shape:
        return fields | {
            "position_embeddings_type": "relative",
            "num_attention_heads": shape[attention + "pos_bias_u"][0],
        }
    if attention + "distance_embedding.weight" in shape:
        width = shape[attention + "distance_embedding.weight"][1]
        heads = shape[attention + "linear_q.weight"][0] // max(1, width)
        return fields | {"position_embeddings_type": "relative_key", "num_attention_heads": heads}
    return fields


def adapter_fields(shape: dict[str, tuple[int, ...]], numbered: Any) -> dict[str, Any]:
    """Those of the convolutions after the last layer, where there are any."""
    layers = numbered("adapter.layers.{}.conv.weight") or numbered("adapter.layers.{}.residual_conv.weight")
    fields: dict[str, Any] = {"add_adapter": bool(layers)}
    if layers:
        hidden, width = shape["feature_projection.projection.weight"][0], shape[layers[0]][1]
        fields |= {"num_adapter_layers": len(layers), "adapter_kernel_size": shape[layers[0]][2]}
        fields |= {"output_hidden_size": 0 if width == hidden else width}
    return fields


def position_fields(shape: dict[str, tuple[int, ...]], numbered: Any) -> dict[str, Any]:
    """Those of the positional convolution: one with weight norm, one with batch norm, or data2vec's stack."""
    stack = numbered("encoder.pos_conv_embed.layers.{}.conv.weight")
    plain = "encoder.pos_conv_embed.conv.weight"
    width, inner, kernel = shape[
        stack[0] if stack else plain if plain in shape else f"encoder.pos_conv_embed.conv.{WEIGHT_NORM_V}"
    ]
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
    if BODY + CONFORMER in state:
        return "wav2vec2-bert" if BODY + DEPTHWISE_NORM in state else "wav2vec2-conformer"
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


def layout(checkpoint: Checkpoint) -> Wav2Vec2Encoder:
    """The module for a checkpoint's config and head, its weights not yet those of the checkpoint."""
    config, state, head = checkpoint.config, checkpoint.state, head_of(checkpoint.state)
    if head == "ForCTC":
        return Wav2Vec2ForCTC(config, vocab_size=len(state["lm_head.weight"]))
    if head == "ForPreTraining":
        return Wav2Vec2ForPreTraining(config)
    if head == "ForSequenceClassification":
        width, classes = len(state["projector.weight"]), len(state["classifier.weight"])
        return Wav2Vec2ForSequenceClassification(config, width, classes, weighted="layer_weights" in state)
    return Wav2Vec2Encoder(config)


def build(checkpoint: Checkpoint) -> Wav2Vec2Encoder:
    """The model in float32 on the CPU, in evaluation mode; InputError when a tensor is missing or has another shape."""
    check_sizes(checkpoint)
    with torch.device("meta"):
        model = layout(checkpoint)
    state = checkpoint.state
    if MASK not in state:  # transformers leaves it out of models that never mask
        state = state | {MASK: torch.zeros(checkpoint.config.hidden_size)}
    check_fit(model, state, checkpoint.source)
    model.load_state_dict({key: as_float(state[key]) for key in model.state_dict()}, assign=True)
    return model.eval()


def classifier(start: Checkpoint, classes: int, **settings: Any) -> Wav2Vec2ForSequenceClassification:
    """A network of the sizes of `start`, and with its body if it has weights, that tells `classes` apart: by the mean over time
    of a learned mixture of all states, or, `weighted` = False, of the last. settings: `width` of the projection, dropouts."""
    width, weighted = settings.pop("width"), settings.pop("weighted")
    model = Wav2Vec2ForSequenceClassification(replace(start.config, **settings), width, classes, weighted)
    model.head_json = {"classifier_proj_size": width, "use_weighted_layer_sum": weighted}
    if start.state:
        copy_body(
            model, replace(start, state={k: v for k, v in start.state.items() if not k.startswith("classifier.")})
        )
    return model


def copy_body(model: Wav2Vec2Encoder, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model of the same sizes, heads included where both have one of the same shape.
    InputError when a weight of the body is missing or has another shape."""
    own = model.state_dict()
    state = {MASK: own[MASK]} | checkpoint.state
    heads = {key: value for key, value in state.items() if not key.startswith(BODY)}
    state = {key: value for key, value in state.items() if key in own and key not in heads}
    state |= {key: value for key, value in heads.items() if key in own and value.shape == own[key].shape}
    check_fit(model, state, checkpoint.source, need=BODY)
    model.load_state_dict({key: as_float(value) for key, value in state.items()}, strict=False)
