"""The names of every tensor in transformers, fairseq and torchaudio: one table, read by all conversions in both directions.

`{}` stands for a number, a final dot for an ending such as `.weight` or `.bias`. An empty name: that library has no such
tensor. In torchaudio's column `=` repeats our name, and `transformer` repeats it under `encoder.transformer.`. The last column
says which models a row holds for: all, or those with that trait (see `traits`).
"""

import re
from functools import cache

from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.names import BODY, WEIGHT_NORM_G, WEIGHT_NORM_V

LAYER = "encoder.layers.{}."
TRANSFORMERS, FAIRSEQ, TORCHAUDIO = 0, 1, 2
TABLE: tuple[tuple[str, str, str, str], ...] = (
    ("masked_spec_embed", "mask_emb", "", ""),
    ("feature_extractor.conv_layers.{}.conv.", "feature_extractor.conv_layers.{}.0.", "=", ""),
    ("feature_extractor.conv_layers.{}.layer_norm.", "feature_extractor.conv_layers.{}.2.", "=", "group"),
    ("feature_extractor.conv_layers.{}.layer_norm.", "feature_extractor.conv_layers.{}.2.1.", "=", "layer"),
    ("feature_projection.layer_norm.", "layer_norm.", "encoder.=", ""),
    ("feature_projection.projection.", "post_extract_proj.", "encoder.=", ""),
    (f"encoder.pos_conv_embed.conv.{WEIGHT_NORM_G}", "encoder.pos_conv.0.weight_g", "transformer", ""),
    (f"encoder.pos_conv_embed.conv.{WEIGHT_NORM_V}", "encoder.pos_conv.0.weight_v", "transformer", ""),
    ("encoder.pos_conv_embed.layers.{}.conv.", "encoder.pos_conv.{}.0.", "", "stacked"),
    ("encoder.pos_conv_embed.batch_norm.", "encoder.pos_conv.0.", "", "batch_norm"),
    ("encoder.pos_conv_embed.conv.", "encoder.pos_conv.1.", "", "batch_norm"),
    ("encoder.pos_conv_embed.conv.", "encoder.pos_conv.0.", "transformer", "weight_norm"),
    ("encoder.layer_norm.", "encoder.layer_norm.", "transformer", ""),
    (LAYER + "attention.q_proj.", LAYER + "self_attn.q_proj.", "transformer", ""),
    (LAYER + "attention.k_proj.", LAYER + "self_attn.k_proj.", "transformer", ""),
    (LAYER + "attention.v_proj.", LAYER + "self_attn.v_proj.", "transformer", ""),
    (LAYER + "attention.out_proj.", LAYER + "self_attn.out_proj.", "transformer", "ungated"),
    (LAYER + "attention.out_proj.", LAYER + "self_attn.out_proj.", LAYER + "attention.attention.out_proj.", "gated"),
    (LAYER + "attention.rel_attn_embed.", LAYER + "self_attn.relative_attention_bias.", "transformer", "gated"),
    (LAYER + "attention.gru_rel_pos_linear.", LAYER + "self_attn.grep_linear.", "transformer", "gated"),
    (LAYER + "attention.gru_rel_pos_const", LAYER + "self_attn.grep_a", "transformer", "gated"),
    (LAYER + "layer_norm.", LAYER + "self_attn_layer_norm.", "transformer", ""),
    (LAYER + "feed_forward.intermediate_dense.", LAYER + "fc1.", "transformer", ""),
    (LAYER + "feed_forward.output_dense.", LAYER + "fc2.", "transformer", ""),
    (LAYER + "final_layer_norm.", LAYER + "final_layer_norm.", "transformer", ""),
    (LAYER + "adapter_layer.linear_1.weight", LAYER + "adapter_layer.W_a", "", ""),
    (LAYER + "adapter_layer.linear_1.bias", LAYER + "adapter_layer.b_a", "", ""),
    (LAYER + "adapter_layer.linear_2.weight", LAYER + "adapter_layer.W_b", "", ""),
    (LAYER + "adapter_layer.linear_2.bias", LAYER + "adapter_layer.b_b", "", ""),
    (LAYER + "adapter_layer.norm.weight", LAYER + "adapter_layer.ln_W", "", ""),
    (LAYER + "adapter_layer.norm.bias", LAYER + "adapter_layer.ln_b", "", ""),
)
HEADS: tuple[tuple[str, str, str, str], ...] = (
    ("quantizer.codevectors", "quantizer.vars", "", ""),
    ("quantizer.weight_proj.", "quantizer.weight_proj.", "", ""),
    ("project_q.", "project_q.", "", ""),
    ("project_hid.", "final_proj.", "", "wav2vec2"),
    ("lm_head.", "w2v_encoder.proj.", "aux.", ""),
)


def traits(config: Wav2Vec2Config) -> frozenset[str]:
    """The traits of a model that the table's last column names."""
    attention = "gated" if config.gated_attention else "ungated"
    position = "stacked" if config.stacked_positions else "batch_norm" if config.conv_pos_batch_norm else "weight_norm"
    return frozenset({config.feat_extract_norm, config.model_type, attention, position})


def spelled(row: tuple[str, str, str, str]) -> tuple[str, str, str]:
    """The three names of a row, with torchaudio's written in full."""
    ours, fairseq, audio, _ = row
    if audio.endswith("="):
        audio = audio.removesuffix("=") + ours
    elif audio == "transformer" or audio.startswith(LAYER):
        tail = ours if audio == "transformer" else audio
        audio = "encoder.transformer." + tail.removeprefix("encoder.")
    return ours, fairseq, audio


@cache
def patterns(source: int, target: int, having: frozenset[str]) -> list[tuple[re.Pattern, str]]:
    """(pattern of a name in library `source`, its name in library `target` or "") for models with the traits `having`.

    A pattern captures the numbers in the name and, where the table's name ends with a dot, the ending.
    """
    rows = [(spelled(row), row[3], BODY) for row in TABLE] + [(spelled(row), row[3], "") for row in HEADS]
    found = []
    for names, trait, prefix in rows:
        names = (prefix + names[0], *names[1:])
        if not names[source] or (trait and trait not in having):
            continue
        pattern = re.escape(names[source]).replace(r"\{\}", r"(\d+)")
        if names[source].endswith("."):
            pattern += r"(\w+)"
        found.append((re.compile(pattern), names[target]))
    return found


def translate(key: str, source: int, target: int, having: frozenset[str]) -> str | None:
    """The name that library `target` has for `key` of library `source`; None if it has none; `key` itself if unknown."""
    for pattern, name in patterns(source, target, having):
        found = pattern.fullmatch(key)
        if not found:
            continue
        if not name:
            return None
        if not name.endswith("."):
            return name.format(*found.groups())
        *numbers, ending = found.groups()
        return name.format(*numbers) + ending
    return key
