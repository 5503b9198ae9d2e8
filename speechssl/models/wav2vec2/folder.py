"""Model folders as transformers reads and writes them: config.json + model.safetensors (+ preprocessor, tokenizer).

Module names are transformers' own; only the body's prefix, which differs between families, and the older spelling of
weight norm are mended on reading. Weights may also lie in several files with an index, or in pytorch_model.bin.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.core.config import coerce
from speechssl.core.errors import InputError
from speechssl.models.checkpoint import FAMILIES, Checkpoint, check_sizes
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.names import BODY, current_name
from speechssl.text.tokenizer import CharTokenizer

WEIGHTS, CONFIG, PREPROCESSOR, VOCAB = "model.safetensors", "config.json", "preprocessor_config.json", "vocab.json"
BIN, INDEX = "pytorch_model.bin", ".index.json"
LONGEST_JSON = 64 << 20  # bytes; the vocabulary of MMS, a thousand languages, has five million
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
    prefix = FAMILIES[config.model_type][1] if class_name(checkpoint).rpartition("For")[1] else ""
    state = {}
    for key, value in checkpoint.state.items():
        name = prefix + key.removeprefix(BODY) if key.startswith(BODY) else key
        state[name] = (value.half() if half and value.is_floating_point() else value).contiguous()
    for name, content in ((CONFIG, describe(checkpoint, state)), (PREPROCESSOR, preprocessor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # the library would let nobody else read them


def class_name(checkpoint: Checkpoint) -> str:
    """transformers' class for a checkpoint: the one it came from, else by its head."""
    family, head = checkpoint.config.model_type, checkpoint.head
    if head == "ForPreTraining" and family != "wav2vec2":
        head = "Model"  # transformers has no such class; its class for the body skips the quantizer's tensors
    named = checkpoint.raw.get("architectures") or [FAMILIES[family][0] + head]
    return str(named[0])


def describe(checkpoint: Checkpoint, state: dict[str, Tensor]) -> dict[str, Any]:
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
    told: dict[str, Any] = {
        "num_feat_extract_layers": len(config.conv_dim),
        "architectures": [class_name(checkpoint)],
    }
    told["dtype"] = next(str(v.dtype).removeprefix("torch.") for v in state.values() if v.is_floating_point())
    told |= {} if head is None else {"vocab_size": len(head)}
    told |= {} if tokenizer is None else {"pad_token_id": tokenizer.blank}
    whole = defaults | raw | architecture | told
    whole.pop("torch_dtype", None)  # the older name of dtype
    return whole


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise InputError(
                f"{path} has {path.stat().st_size >> 20} MiB, which no model's settings have; do not trust it"
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} is missing: {path.parent} is not a model folder (config.json + {WEIGHTS})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid JSON ({error}); the folder is damaged, copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object; the folder is damaged, copy it again")
    return value


def read_config(folder: Path) -> tuple[Wav2Vec2Config, dict[str, Any]]:
    """(architecture, the whole config.json) of a model folder."""
    raw = read_json(folder / CONFIG)
    if raw.get("model_type") not in FAMILIES:
        raise InputError(
            f"{folder / CONFIG} says model_type = {raw.get('model_type')!r}; only {', '.join(FAMILIES)} can be opened"
        )
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
    return config, raw


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


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights: one, or those that an index names."""
    for name in (WEIGHTS, BIN):
        if (folder / name).exists():
            return [folder / name]
        index = folder / (name + INDEX)
        if index.exists():
            named = read_json(index).get("weight_map")
            names = sorted({str(file) for file in named.values()}) if isinstance(named, dict) else []
            if not names or any(not re.fullmatch(r"[\w.-]*\w", file) for file in names):
                raise InputError(
                    f"{index} names files outside the folder or none at all ({', '.join(names)[:80]}); do not trust it"
                )
            return [folder / file for file in names]
    raise InputError(f"{folder / WEIGHTS} is missing; a model folder is config.json + {WEIGHTS} (or {BIN})")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one .safetensors or .bin file; of a .bin nothing but tensors is unpickled."""
    loads: dict[bool, Callable[[Path], Any]] = {
        True: load_file,
        False: lambda file: torch.load(file, map_location="cpu", weights_only=True),
    }
    try:
        state = loads[path.suffix == ".safetensors"](path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; a model folder is config.json + {WEIGHTS}") from None
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read ({error}); it is damaged or cut short, copy it again") from None
    except Exception as error:  # whatever a damaged or hostile pickle provokes
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} cannot be read as tensors ({reason}); it is damaged, or do not trust it") from None
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(f"{path} holds more than tensors; only a state dict can be opened")
    return state


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, under today's names, the body's under `wav2vec2.` whatever its family."""
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= read_tensors(file)
    state = {current_name(key): value for key, value in state.items()}
    for _, prefix in FAMILIES.values():
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


def read(folder: Path, language: str = "") -> Checkpoint:
    """A model folder as a checkpoint, with the adapter of `language` where one is asked for."""
    config, raw = read_config(folder)
    state = read_weights(folder)
    if language:
        state |= read_adapter(folder, language)
    tokenizer = None
    if "lm_head.weight" in state and (folder / VOCAB).exists():
        tokenizer, outputs = CharTokenizer.load(folder, language), len(state["lm_head.weight"])
        if len(tokenizer) > outputs:
            raise InputError(
                f"{folder / VOCAB} has ids up to {len(tokenizer) - 1} but {WEIGHTS} has {outputs} outputs; the two files "
                "belong to different models"
            )
    checkpoint = Checkpoint(config=config, state=state, tokenizer=tokenizer, raw=raw, source=str(folder / WEIGHTS))
    check_sizes(checkpoint)
    return checkpoint
