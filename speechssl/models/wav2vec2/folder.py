"""Model folders as transformers reads and writes them: config.json + model.safetensors (+ preprocessor, tokenizer).

Module names are transformers' own; only the body's prefix, which differs between families, and the older names of weight
norm's tensors are replaced on reading.
"""

import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from torch import Tensor

from speechssl.core.config import coerce
from speechssl.core.errors import InputError
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.folder import CONFIG, WEIGHTS, read_json, read_tensors, weight_files, write_json, write_tensors
from speechssl.models.wav2vec2.checkpoint import check_sizes, head_of
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.names import BODY, current_name
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.text.tokenizer import CharTokenizer

PREPROCESSOR, VOCAB = "preprocessor_config.json", "vocab.json"
TRANSFORMERS = {  # model_type: (what the names of transformers' classes start with, the prefix of its tensors)
    "wav2vec2": ("Wav2Vec2", "wav2vec2."),
    "hubert": ("Hubert", "hubert."),
    "wavlm": ("WavLM", "wavlm."),
    "data2vec-audio": ("Data2VecAudio", "data2vec_audio."),
}
SPECIFIC = {  # fields that only one family's config has; any other family's is left as transformers would have it
    "conv_pos_kernel_size": "data2vec-audio",
    "conv_pos_batch_norm": "hubert",
    "feat_proj_layer_norm": "hubert",
    "num_buckets": "wavlm",
    "max_bucket_distance": "wavlm",
}


def write(folder: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """A checkpoint as a model folder; half: weights in 16 bits, else as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    config = checkpoint.config
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "processor_class": "Wav2Vec2Processor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "do_normalize": config.do_normalize,
        "return_attention_mask": config.feat_extract_norm == "layer",
    }
    if checkpoint.tokenizer is None:
        del preprocessor["processor_class"]
    else:
        checkpoint.tokenizer.save(folder)
    prefix = TRANSFORMERS[config.model_type][1] if class_name(checkpoint).rpartition("For")[1] else ""
    state = {}
    for key, value in checkpoint.state.items():
        name = prefix + key.removeprefix(BODY) if key.startswith(BODY) else key
        state[name] = value.half() if half and value.is_floating_point() else value
    write_json(folder / CONFIG, config_json(checkpoint, state))
    write_json(folder / PREPROCESSOR, preprocessor)
    write_tensors(folder, state)


def class_name(checkpoint: Checkpoint) -> str:
    """transformers' class for a checkpoint: the one it came from, else by its head."""
    family, head = checkpoint.config.model_type, head_of(checkpoint.state)
    if head == "ForPreTraining" and family != "wav2vec2":
        head = "Model"  # transformers has no such class; its class for the body skips the quantizer's tensors
    named = checkpoint.raw.get("architectures") or [TRANSFORMERS[family][0] + head]
    return str(named[0])


def config_json(checkpoint: Checkpoint, state: dict[str, Tensor]) -> dict[str, Any]:
    """config.json: our architecture fields, which are transformers', and what else transformers wants to know of `state`."""
    config, raw = checkpoint.config, checkpoint.raw
    architecture = {k: v for k, v in asdict(config).items() if SPECIFIC.get(k, config.model_type) == config.model_type}
    del architecture["do_normalize"]
    architecture["adapter_attn_dim"] = architecture.pop("adapter_width") or None
    head, tokenizer = checkpoint.state.get("lm_head.weight"), checkpoint.tokenizer
    defaults = {
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "mask_time_prob": 0.05,
        "ctc_zero_infinity": True,
        "pad_token_id": 0,
        "vocab_size": 32,
    }
    known: dict[str, Any] = {
        "num_feat_extract_layers": len(config.conv_dim),
        "architectures": [class_name(checkpoint)],
    }
    known["dtype"] = next(str(v.dtype).removeprefix("torch.") for v in state.values() if v.is_floating_point())
    known |= {} if head is None else {"vocab_size": len(head)}
    known |= {} if tokenizer is None else {"pad_token_id": tokenizer.blank}
    whole = defaults | raw | architecture | known
    whole.pop("torch_dtype", None)  # the older name of dtype
    return whole


def read_config(folder: Path, raw: dict[str, Any]) -> Wav2Vec2Config:
    """The architecture that a model folder's config.json, `raw`, and preprocessor describe."""
    for key, only in (("hidden_act", "gelu"), ("feat_extract_activation", "gelu"), ("add_adapter", False)):
        if raw.get(key, only) != only:
            raise InputError(f"{folder / CONFIG} says {key} = {raw[key]!r}; only {only} can be opened")
    renamed: dict[str, Any] = {"adapter_width": raw.get("adapter_attn_dim")}
    if raw["model_type"] == "data2vec-audio":
        renamed |= {"feat_extract_norm": "layer", "do_stable_layer_norm": False}
    config = architecture(raw | renamed, str(folder / CONFIG))
    preprocessor = folder / PREPROCESSOR
    if preprocessor.exists():
        config = replace(config, do_normalize=bool(read_json(preprocessor).get("do_normalize", False)))
    return config


def architecture(values: dict[str, Any], source: str) -> Wav2Vec2Config:
    """Those of `values` that are our fields, their types and ranges checked; `source` is for messages."""
    kinds = get_type_hints(Wav2Vec2Config)
    known = {field.name for field in fields(Wav2Vec2Config)} & {
        key for key, value in values.items() if value is not None
    }
    try:
        return Wav2Vec2Config(**{key: coerce(values[key], kinds[key], key, "it") for key in known})
    except (TypeError, InputError, OverflowError) as error:
        raise InputError(f"{source} cannot be used: {error}") from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, under torch's current names, the body's under `wav2vec2.` whatever its family."""
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= read_tensors(file)
    state = {current_name(key): value for key, value in state.items()}
    for _, prefix in TRANSFORMERS.values():
        if any(key.startswith(prefix + "encoder.") for key in state):
            return {BODY + key.removeprefix(prefix) if key.startswith(prefix) else key: v for key, v in state.items()}
    bare = ("feature_extractor.conv", "feature_projection.", "encoder.", "masked_spec_embed")
    return {BODY + key if key.startswith(bare) else key: value for key, value in state.items()}


def read_adapter(folder: Path, language: str) -> dict[str, Tensor]:
    """The tensors that MMS has for one language: its adapters and its output layer."""
    for name in (f"adapter.{language}.safetensors", f"adapter.{language}.bin"):
        if re.fullmatch(r"[\w-]+", language) and (folder / name).exists():
            return read_tensors(folder / name)
    languages = sorted(file.name.split(".")[1] for file in folder.glob("adapter.*"))
    raise InputError(f"{folder} has no adapter for {language!r}; it has {', '.join(languages[:9]) or 'none'}")


def read(folder: Path, raw: dict[str, Any], language: str = "") -> Checkpoint:
    """A model folder, whose config.json is `raw`, as a checkpoint; language: with the adapter that MMS has for it."""
    config = read_config(folder, raw)
    state = read_weights(folder)
    if language:
        state |= read_adapter(folder, language)
    tokenizer = None
    if "lm_head.weight" in state and (folder / VOCAB).exists():
        outputs = len(state["lm_head.weight"])
        tokenizer = CharTokenizer.load(folder, language, outputs)
        if len(tokenizer) > outputs:
            raise InputError(
                f"{folder / VOCAB} has ids up to {len(tokenizer) - 1} but {WEIGHTS} has {outputs} outputs; the two files "
                "belong to different models"
            )
    checkpoint = Checkpoint(config=config, state=state, tokenizer=tokenizer, raw=raw, source=str(folder / WEIGHTS))
    check_sizes(checkpoint)
    return checkpoint


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """The model as lines of name and value, for `speechssl info`."""
    config = checkpoint.config
    norms = (
        f"{config.feat_extract_norm} norm in the encoder, {'pre' if config.do_stable_layer_norm else 'post'}-LN layers"
    )
    return {
        "format": f"{class_name(checkpoint)}, the format of transformers",
        "layers": f"{config.num_hidden_layers} of width {config.hidden_size}, {config.num_attention_heads} heads; {norms}",
        "frame rate": f"{SAMPLE_RATE / config.geometry.hop:g} Hz, each frame sees {config.geometry.receptive_field} samples "
        f"at {SAMPLE_RATE} Hz, {'normalised' if config.do_normalize else 'as they are'}",
        "head": head_of(checkpoint.state).removeprefix("For").replace("Model", "none"),
    }
