"""Model folders as transformers reads and writes them: config.json + model.safetensors (+ preprocessor, tokenizer).

Module names are transformers' own, so no key is translated; only the two spellings of weight norm and of old layer-norm
keys are mended on reading.
"""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechssl.errors import InputError
from speechssl.models.config import Wav2Vec2Config
from speechssl.models.wav2vec2 import Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.text import CharTokenizer

WEIGHTS, CONFIG, PREPROCESSOR, VOCAB = "model.safetensors", "config.json", "preprocessor_config.json", "vocab.json"
SPELLINGS = ((".weight_g", ".parametrizations.weight.original0"), (".weight_v", ".parametrizations.weight.original1"))


def save_model(
    folder: Path, model: Any, tokenizer: CharTokenizer | None, facts: dict[str, Any], *, half: bool = False
) -> None:
    """Write a model folder. `facts` (training data, step, objective ...) go under "speechssl" in config.json. half: weights
    in 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    config: Wav2Vec2Config = model.config
    (folder / CONFIG).write_text(json.dumps(describe(model, tokenizer, facts), indent=2) + "\n", encoding="utf-8")
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "do_normalize": config.do_normalize,
        "return_attention_mask": config.feat_extract_norm == "layer",
    }
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save(folder)
    dtype = torch.float16 if half else torch.float32
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def describe(model: Any, tokenizer: CharTokenizer | None, facts: dict[str, Any]) -> dict[str, Any]:
    """config.json: our architecture fields, which are transformers', and what else transformers wants to know."""
    architecture = asdict(model.config)
    architecture.pop("do_normalize")
    return architecture | {
        "architectures": [type(model).__name__],
        "model_type": "wav2vec2",
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(model.config.conv_dim),
        "mask_time_prob": 0.05,
        "vocab_size": len(tokenizer) if tokenizer else 32,
        "pad_token_id": 0,
        "ctc_zero_infinity": True,
        "speechssl": facts,
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} is missing: {path.parent} is not a model folder (config.json + {WEIGHTS})") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); the folder is damaged, copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object; the folder is damaged, copy it again")
    return value


def read_config(folder: Path) -> tuple[Wav2Vec2Config, dict[str, Any]]:
    """(architecture, the whole config.json) of a model folder."""
    raw = read_json(folder / CONFIG)
    if raw.get("model_type") != "wav2vec2":
        raise InputError(f"{folder / CONFIG} says model_type = {raw.get('model_type')!r}; only wav2vec2 can be opened")
    for key in ("hidden_act", "feat_extract_activation"):
        if raw.get(key, "gelu") != "gelu":
            raise InputError(f"{folder / CONFIG} says {key} = {raw[key]!r}; only gelu can be opened")
    known = {field.name for field in fields(Wav2Vec2Config)}
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items() if key in known}
    try:
        config = Wav2Vec2Config(**values)
    except (TypeError, InputError) as error:
        raise InputError(f"{folder / CONFIG} cannot be used: {error}") from None
    preprocessor = folder / PREPROCESSOR
    if preprocessor.exists():
        config = replace(config, do_normalize=bool(read_json(preprocessor).get("do_normalize", False)))
    return config, raw


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, under today's names."""
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; a model folder is config.json + {WEIGHTS}") from None
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read ({error}); it is damaged or cut short, copy it again") from None
    for old, new in SPELLINGS:
        state = {key.removesuffix(old) + new if key.endswith(old) else key: value for key, value in state.items()}
    return state


def load_model(folder: Path) -> tuple[nn.Module, CharTokenizer | None, dict[str, Any]]:
    """(model, tokenizer or None, config.json) of a model folder, the model on the CPU, in evaluation mode."""
    config, raw = read_config(folder)
    state = read_weights(folder)
    if "lm_head.weight" in state:
        model: nn.Module = Wav2Vec2ForCTC(config, vocab_size=len(state["lm_head.weight"]))
        tokenizer = CharTokenizer.load(folder) if (folder / VOCAB).exists() else None
        if tokenizer is not None and len(tokenizer) > len(state["lm_head.weight"]):
            raise InputError(
                f"{folder / VOCAB} has ids up to {len(tokenizer) - 1} but {WEIGHTS} has {len(state['lm_head.weight'])} "
                "outputs; the two files belong to different models"
            )
    else:
        model, tokenizer = Wav2Vec2ForPreTraining(config), None
        if not any(key.startswith("wav2vec2.") for key in state):
            state = {f"wav2vec2.{key}": value for key, value in state.items()}
    copy_weights(model, state, str(folder / WEIGHTS), need="wav2vec2.")
    return model.eval(), tokenizer, raw


def copy_weights(model: nn.Module, state: dict[str, Tensor], source: str, need: str) -> None:
    """Copy `state` into `model`; InputError when a weight under the prefix `need` is missing or a shape differs."""
    own = model.state_dict()
    if "wav2vec2.masked_spec_embed" not in state:  # transformers leaves it out of models that never mask
        state = state | {"wav2vec2.masked_spec_embed": own["wav2vec2.masked_spec_embed"]}
    missing = [key for key in own if key.startswith(need) and key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        problem = f"{missing[0]} is missing" if missing else f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}"
        raise InputError(f"{source} does not fit its config.json: {problem}; the two files belong to different models")
    model.load_state_dict({key: value.float() for key, value in state.items() if key in own}, strict=False)
