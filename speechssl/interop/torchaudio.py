"""State dicts of torchaudio's wav2vec2_model and wavlm_model, those of its pipelines included, read and written.

Such a file holds tensors only. What they do not show (attention heads, strides, the vocabulary) is read from the JSON file
that `write` puts beside it; without one it is assumed to be that of the published models.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.interop.fairseq import LETTERS, SPECIALS, STRIDES, complete
from speechssl.interop.keys import TORCHAUDIO, TRANSFORMERS, traits, translate
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.folder import read_json
from speechssl.models.wav2vec2.checkpoint import check_sizes, family_of, infer
from speechssl.models.wav2vec2.folder import architecture
from speechssl.models.wav2vec2.names import BODY, current_name
from speechssl.text.tokenizer import PAD, CharTokenizer

FUSED = BODY + "encoder.layers.{}.attention.attention.in_proj_{}"
SPLIT = BODY + "encoder.layers.{}.attention.{}_proj.{}"
READING = frozenset({"group", "layer", "weight_norm", "gated", "ungated"})


def sidecar(path: Path) -> Path:
    """x.pth -> x.json, the file of the model's settings."""
    return path.with_suffix(".json")


def read(path: Path, content: dict[str, Tensor]) -> Checkpoint:
    """A state dict of torchaudio as a checkpoint."""
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        state[translate(current_name(key), TORCHAUDIO, TRANSFORMERS, READING) or key] = value
    state = split_attention({body_name(key): value for key, value in state.items()})
    known: dict[str, Any] = read_json(sidecar(path)) if sidecar(path).exists() else {}
    fields: dict[str, Any] = infer(state, str(path)) | {"model_type": family_of(state) or "wav2vec2"}
    fields["conv_stride"] = tuple(STRIDES.get(kernel, 1) for kernel in fields["conv_kernel"])
    fields["do_normalize"] = fields["feat_extract_norm"] == "layer"  # as the pipelines do
    config = architecture(complete(fields | known.get("config", {}), str(path)), str(path))
    tokenizer = vocabulary(known, len(state["lm_head.weight"])) if "lm_head.weight" in state else None
    raw = {"speechssl": {"origin": f"torchaudio {path.name}"}}
    checkpoint = Checkpoint(config=config, state=state, tokenizer=tokenizer, raw=raw, source=str(path))
    check_sizes(checkpoint)
    return checkpoint


def body_name(key: str) -> str:
    """Our name of a fused attention weight, for which the table has no row."""
    return BODY + key.replace("encoder.transformer.", "encoder.") if key.startswith("encoder.transformer.") else key


def split_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split WavLM's query, key and value weights, which torchaudio keeps in one tensor."""
    state = dict(state)
    for key in [key for key in state if ".attention.attention.in_proj_" in key]:
        layer, kind = key.split(".")[3], key.rpartition("_")[2]
        for name, part in zip("qkv", state.pop(key).chunk(3), strict=True):
            state[SPLIT.format(layer, name, kind)] = part
    return state


def fuse_attention(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The reverse of `split_attention`."""
    state = dict(state)
    for layer in range(layers):
        for kind in ("weight", "bias"):
            parts = [state.pop(SPLIT.format(layer, name, kind)) for name in "qkv"]
            state[FUSED.format(layer, kind)] = torch.cat(parts)
    return state


def vocabulary(known: dict[str, Any], size: int) -> CharTokenizer | None:
    """The vocabulary in the JSON file, or that of the published English models, with or without their unused symbols."""
    if isinstance(known.get("vocab"), dict):
        return CharTokenizer({str(token): int(index) for token, index in known["vocab"].items()})
    symbols = {len(LETTERS) + 1: [PAD, *LETTERS], len(LETTERS) + 4: [PAD, "<s>", *SPECIALS[2:], *LETTERS]}.get(size)
    return CharTokenizer({symbol: i for i, symbol in enumerate(symbols)}) if symbols else None


def write(path: Path, checkpoint: Checkpoint) -> list[str]:
    """Write a state dict for torchaudio.models.wav2vec2_model(**settings), and the settings as JSON beside it.

    Returns the names of the tensors that torchaudio has no place for. InputError if it cannot hold such a model.
    """
    config = checkpoint.config
    for name, wrong in (
        ("model_type = 'data2vec-audio'", config.stacked_positions),
        ("conv_pos_batch_norm", config.conv_pos_batch_norm),
        ("feat_proj_layer_norm = false", not config.feat_proj_layer_norm),
        ("adapters", bool(config.adapter_width) or config.add_adapter),
    ):
        if wrong:
            raise InputError(f"{path} cannot be written: torchaudio's models have no {name}; choose --to transformers")
    state, left_out, gated = checkpoint.state, [], config.gated_attention
    if gated:
        state = fuse_attention(state, config.num_hidden_layers)
    tensors = {}
    for key, value in state.items():
        name = translate(key, TRANSFORMERS, TORCHAUDIO, traits(config))
        if name == key and gated and ".in_proj_" in key:
            name = key.removeprefix(BODY).replace("encoder.", "encoder.transformer.", 1)
        if not name or name == key:
            left_out.append(key)
        else:
            tensors[name] = value.contiguous()
    torch.save(tensors, path)
    known: dict[str, Any] = {"function": "wavlm_model" if gated else "wav2vec2_model", "settings": settings(checkpoint)}
    known["config"] = asdict(config)
    if checkpoint.tokenizer is not None:
        known["vocab"] = checkpoint.tokenizer.vocab
    sidecar(path).write_text(json.dumps(known, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return left_out


def settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keyword arguments of torchaudio's function."""
    config, head = checkpoint.config, checkpoint.state.get("lm_head.weight")
    gated = {"encoder_num_buckets": config.num_buckets, "encoder_max_distance": config.max_bucket_distance}
    return {
        "extractor_mode": f"{config.feat_extract_norm}_norm",
        "extractor_conv_layer_config": list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)),
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.hidden_size,
        "encoder_projection_dropout": config.feat_proj_dropout,
        "encoder_pos_conv_kernel": config.num_conv_pos_embeddings,
        "encoder_pos_conv_groups": config.num_conv_pos_embedding_groups,
        "encoder_num_layers": config.num_hidden_layers,
        "encoder_num_heads": config.num_attention_heads,
        "encoder_attention_dropout": config.attention_dropout,
        "encoder_ff_interm_features": config.intermediate_size,
        "encoder_ff_interm_dropout": config.activation_dropout,
        "encoder_dropout": config.hidden_dropout,
        "encoder_layer_norm_first": config.do_stable_layer_norm,
        "encoder_layer_drop": config.layerdrop,
        "aux_num_out": None if head is None else len(head),
        **(gated if config.gated_attention else {}),
    }
