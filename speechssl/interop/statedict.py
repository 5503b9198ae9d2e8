"""State dicts by themselves: what Lightning, a training loop or `torch.save(model.state_dict())` leaves behind, tensors only.

The names are those of transformers, fairseq or torchaudio, often below a prefix such as `model.` or `encoder.`. The config is the
config.json beside the file; without one the sizes are read from the tensors, and the rest is that of the published models.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.interop import fairseq, torchaudio
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.folder import CONFIG, read_json
from speechssl.models.wav2vec2.checkpoint import check_sizes, family_of, infer
from speechssl.models.wav2vec2.config import LOG_MEL, Wav2Vec2Config
from speechssl.models.wav2vec2.folder import (
    OWN,
    TRANSFORMERS,
    architecture,
    family_prefix,
    our_names,
    read_config,
    read_vocabulary,
)
from speechssl.models.wav2vec2.names import BODY

PARTS = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_weight",
    "Upstream",
    "module",
)  # where files keep the tensors
MARKS = (  # (layout, a tensor that every model of it has): the start of its name is the prefix
    ("torchaudio", "encoder.transformer.layers.0.attention.k_proj.weight"),
    ("torchaudio", "encoder.transformer.layers.0.attention.attention.in_proj_weight"),
    ("transformers", "encoder.layers.0.attention.k_proj.weight"),
    ("transformers", "encoder.layers.0.self_attn.linear_k.weight"),
    ("fairseq", "encoder.layers.0.self_attn.k_proj.weight"),
)
ROTARY = BODY + "encoder.embed_positions.inv_freq"
DISTANCES = BODY + "encoder.layers.0.self_attn.distance_embedding.weight"
PUBLISHED_DISTANCES = 73  # 64 to the left, 8 to the right, and none


class Layout(NamedTuple):
    """Whose names the tensors have, and what stands before those of the network."""

    library: str
    prefix: str


def tensors_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file, wherever they are kept in it."""
    parts = [content[part] for part in PARTS if isinstance(content.get(part), dict)]
    others = [value for value in content.values() if isinstance(value, dict) and tensors(value)]
    for part in [*parts, content, *(others if len(others) == 1 else ())]:
        if found := tensors(part):
            return found
    return {}


def tensors(part: dict[Any, Any]) -> dict[str, Tensor]:
    """Those that a dictionary holds itself."""
    return {str(key): value for key, value in part.items() if isinstance(value, Tensor)}


def layout_of(state: dict[str, Tensor], path: Path) -> Layout | None:
    """The layout of some tensors; None if they are of no known one. InputError if there are several networks."""
    found = {
        Layout(library, key.removesuffix(mark))
        for key in state
        for library, mark in MARKS
        if key.endswith(mark) and key.removesuffix(mark)[-1:] in ("", ".")
    }
    if len(found) > 1:
        prefixes = ", ".join(sorted(repr(layout.prefix) for layout in found))
        raise InputError(f"{path} holds several networks ({prefixes}); save the one that you want by itself")
    return next(iter(found), None)


def read(path: Path, state: dict[str, Tensor], layout: Layout) -> Checkpoint:
    """The tensors of a file as a checkpoint. InputError if they are not all of a model."""
    if layout.library == "fairseq":
        outer = layout.prefix.removesuffix(fairseq.CTC)
        return fairseq.read(path, {"model": {key.removeprefix(outer): value for key, value in state.items()}})
    if layout.library == "torchaudio":
        return torchaudio.read(path, {key.removeprefix(layout.prefix): value for key, value in state.items()})
    return read_transformers(path, state, layout.prefix)


def read_transformers(path: Path, state: dict[str, Tensor], prefix: str) -> Checkpoint:
    """Tensors with transformers' names."""
    named = our_names(state)
    beside = path.parent / CONFIG
    raw: dict[str, Any] = read_json(beside) if beside.is_file() else {}
    if raw.get("model_type") in TRANSFORMERS:
        config = read_config(path.parent, raw)
    else:
        raw = {"speechssl": {"origin": f"the state dict {path.name}"}}
        config = guessed(named, family_of(named) or family_prefix(prefix)[0] or "wav2vec2", path)
    tokenizer = read_vocabulary(path.parent, named, weights=path.name)
    checkpoint = Checkpoint(config=config, state=named, tokenizer=tokenizer, raw=raw, source=str(path))
    check_sizes(checkpoint)
    return checkpoint


def guessed(state: dict[str, Tensor], family: str, path: Path) -> Wav2Vec2Config:
    """The architecture that the tensors show, completed as the published models are."""
    known = infer(state, str(path))
    known["feat_extract_norm"] = norm = known.get("feat_extract_norm", "layer")
    fields: dict[str, Any] = OWN.get(family, {}) | {"model_type": family, "do_normalize": norm == "layer"}
    if "conv_kernel" in known:
        fields["conv_stride"] = tuple(fairseq.STRIDES.get(kernel, 1) for kernel in known["conv_kernel"])
    else:
        fields |= LOG_MEL | {"do_normalize": False, "num_conv_pos_embedding_groups": 1}
    distances = state.get(DISTANCES)
    if distances is not None and len(distances) != PUBLISHED_DISTANCES:
        raise InputError(
            f"{path} does not say how many of its {len(distances)} distances lie to the left; put its {CONFIG} beside it"
        )
    if family in OWN:
        kind = "rotary" if ROTARY in state else ""
        fields |= {"hidden_act": "swish", "position_embeddings_type": kind}
    config = architecture(fairseq.complete(fields | known, str(path)), str(path))
    taken = "normalised" if config.do_normalize else "taken as it is"
    dist.report(
        f"{path}: no {CONFIG} beside it, so sizes are those of the tensors, with {config.num_attention_heads} attention heads "
        f"and audio {taken}, as in the published models"
    )
    return config
