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
from speechssl.models.folder import CONFIG, WEIGHTS, described, read_tensors, read_weights, write_json, write_tensors
from speechssl.models.quantised import SETTINGS as QUANTISED
from speechssl.models.wav2vec2.checkpoint import check_sizes, head_of
from speechssl.models.wav2vec2.config import ADAPTERS, CONFORMERS, LOG_MEL, Wav2Vec2Config
from speechssl.models.wav2vec2.context import ACTIVATIONS
from speechssl.models.wav2vec2.names import BODY, current_name
from speechssl.models.wav2vec2.processor import PREPROCESSOR, heard, holder
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.text.tokenizer import CharTokenizer

VOCAB = "vocab.json"
TRANSFORMERS = {  # model_type: (what the names of transformers' classes start with, the prefix of its tensors)
    "wav2vec2": ("Wav2Vec2", "wav2vec2."),
    "hubert": ("Hubert", "hubert."),
    "wavlm": ("WavLM", "wavlm."),
    "data2vec-audio": ("Data2VecAudio", "data2vec_audio."),
    "unispeech": ("UniSpeech", "unispeech."),
    "unispeech-sat": ("UniSpeechSat", "unispeech_sat."),
    "wav2vec2-conformer": ("Wav2Vec2Conformer", "wav2vec2_conformer."),
    "wav2vec2-bert": ("Wav2Vec2Bert", "wav2vec2_bert."),
}
QUANTIZERS = ("wav2vec2", "wav2vec2-conformer")  # families whose ForPreTraining class of transformers has ours
WAVES = tuple(family for family in TRANSFORMERS if family != "wav2vec2-bert")
OF_ADAPTER = ("num_adapter_layers", "adapter_kernel_size", "adapter_stride", "output_hidden_size")
SPECIFIC = {  # fields that only some families' configs have; any other family's is left as transformers would have it
    "conv_dim": WAVES,
    "conv_kernel": WAVES,
    "conv_stride": WAVES,
    "conv_bias": WAVES,
    "feat_extract_norm": WAVES,
    "do_stable_layer_norm": WAVES,
    "num_conv_pos_embeddings": WAVES,
    "num_conv_pos_embedding_groups": WAVES,
    "conv_pos_kernel_size": ("data2vec-audio",),
    "conv_pos_batch_norm": ("hubert",),
    "feat_proj_layer_norm": ("hubert",),
    "num_buckets": ("wavlm",),
    "max_bucket_distance": ("wavlm",),
    "position_embeddings_type": CONFORMERS,
    "rotary_embedding_base": CONFORMERS,
    "left_max_position_embeddings": ("wav2vec2-bert",),
    "right_max_position_embeddings": ("wav2vec2-bert",),
    "conv_depthwise_kernel_size": CONFORMERS,
    "conformer_conv_dropout": CONFORMERS,
    "add_adapter": ADAPTERS,
    **dict.fromkeys(OF_ADAPTER, ADAPTERS),
    "adapter_act": ("wav2vec2-bert",),
    "use_intermediate_ffn_before_adapter": ("wav2vec2-bert",),
}
OWN = {  # what transformers takes where a config.json of a family does not say it
    "wav2vec2-conformer": {"position_embeddings_type": "relative"},
    "wav2vec2-bert": {"position_embeddings_type": "relative_key", "hidden_act": "swish", "num_adapter_layers": 1},
}
FIXED = {  # fields that a family's config.json lacks, since they cannot differ
    "data2vec-audio": {"feat_extract_norm": "layer", "do_stable_layer_norm": False},
    "wav2vec2-bert": {**LOG_MEL, "feat_extract_norm": "layer", "num_conv_pos_embedding_groups": 1},
}
PROJECTION = "feature_projection.projection.weight"
BARE = (
    "feature_extractor.conv",
    "feature_projection.",
    "encoder.",
    "masked_spec_embed",
    "adapter.",
    "intermediate_ffn.",
)
EXTRACTORS = {"wav2vec2-bert": ("SeamlessM4TFeatureExtractor", "Wav2Vec2BertProcessor")}
WAVE_EXTRACTOR = ("Wav2Vec2FeatureExtractor", "Wav2Vec2Processor")


def write(folder: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """A checkpoint as a model folder; half: weights in 16 bits, else as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    config = checkpoint.config
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    prefix = TRANSFORMERS[config.model_type][1] if class_name(checkpoint).rpartition("For")[1] else ""
    state = {}
    for key, value in checkpoint.state.items():
        name = prefix + key.removeprefix(BODY) if key.startswith(BODY) else key
        state[name] = value.half() if half and value.is_floating_point() else value
    write_json(folder / CONFIG, config_json(checkpoint, state))
    write_json(folder / PREPROCESSOR, preprocessor_json(config, checkpoint.tokenizer is not None))
    write_tensors(folder, state)


def preprocessor_json(config: Wav2Vec2Config, letters: bool) -> dict[str, Any]:
    """preprocessor_config.json; letters: whether a tokenizer lies beside it."""
    extractor, processor = EXTRACTORS.get(config.model_type, WAVE_EXTRACTOR)
    settings: dict[str, Any] = {"feature_extractor_type": extractor}
    settings |= {"processor_class": processor} if letters else {}
    settings |= {"sampling_rate": config.sampling_rate, "padding_value": 0.0}
    if config.log_mel:
        return settings | {"feature_size": 80, "num_mel_bins": 80, "stride": 2, "return_attention_mask": True}
    layered = config.feat_extract_norm == "layer"
    return settings | {"feature_size": 1, "do_normalize": config.do_normalize, "return_attention_mask": layered}


def class_name(checkpoint: Checkpoint) -> str:
    """transformers' class for a checkpoint: the one it came from, else by its head."""
    family, head = checkpoint.config.model_type, head_of(checkpoint.state)
    if head == "ForPreTraining" and family not in QUANTIZERS:
        head = "Model"  # transformers has no such class; its class for the body skips the quantizer's tensors
    named = checkpoint.raw.get("architectures") or [TRANSFORMERS[family][0] + head]
    return str(named[0])


def config_json(checkpoint: Checkpoint, state: dict[str, Tensor]) -> dict[str, Any]:
    """config.json: our architecture fields, which are transformers', and what else transformers wants to know of `state`."""
    config, raw = checkpoint.config, checkpoint.raw
    family = config.model_type
    architecture = {k: v for k, v in asdict(config).items() if family in SPECIFIC.get(k, TRANSFORMERS)}
    del architecture["do_normalize"], architecture["sampling_rate"]
    architecture["adapter_attn_dim"] = architecture.pop("adapter_width") or None
    if config.add_adapter:
        architecture["output_hidden_size"] = config.output_width
    else:
        architecture = {k: v for k, v in architecture.items() if k not in OF_ADAPTER}
    if "position_embeddings_type" in architecture:
        architecture["position_embeddings_type"] = config.position_embeddings_type or None
    if config.log_mel:
        architecture["feature_projection_input_dim"] = config.conv_dim[0]
    head, tokenizer = checkpoint.state.get("lm_head.weight"), checkpoint.tokenizer
    defaults = {
        "feat_extract_activation": "gelu",
        "mask_time_prob": 0.05,
        "ctc_zero_infinity": True,
        "pad_token_id": 0,
        "vocab_size": 32,
    }
    known: dict[str, Any] = {"architectures": [class_name(checkpoint)]}
    known |= {} if config.log_mel else {"num_feat_extract_layers": len(config.conv_dim)}
    known["dtype"] = next(str(v.dtype).removeprefix("torch.") for v in state.values() if v.is_floating_point())
    known |= {} if head is None else {"vocab_size": len(head)}
    known |= {} if tokenizer is None else {"pad_token_id": tokenizer.blank}
    whole = defaults | raw | architecture | known
    for key in ("torch_dtype", QUANTISED):  # the older name of dtype; what no longer holds
        whole.pop(key, None)
    return whole


def read_config(folder: Path, raw: dict[str, Any]) -> Wav2Vec2Config:
    """The architecture that a model folder's config.json, `raw`, and its processor describe."""
    family, file = raw["model_type"], folder / CONFIG
    only = {
        "feat_extract_activation": ["gelu"],
        "hidden_act": sorted(ACTIVATIONS) if family in CONFORMERS else ["gelu"],
    }
    for key, known in only.items():
        if raw.get(key, known[0]) not in known:
            raise InputError(f"{file} says {key} = {raw[key]!r}; only {' or '.join(known)} can be opened")
    if raw.get("add_adapter") and family not in ADAPTERS:
        raise InputError(
            f"{file} says add_adapter = true, which transformers has not for {family}; correct it to false"
        )
    if raw.get("feature_projection_input_dim", 160) != 160:
        raise InputError(
            f"{file} says feature_projection_input_dim = {raw['feature_projection_input_dim']!r}; 160 can be opened"
        )
    renamed: dict[str, Any] = {"adapter_width": raw.get("adapter_attn_dim")} | FIXED.get(family, {})
    if "position_embeddings_type" in raw and raw["position_embeddings_type"] is None:
        renamed["position_embeddings_type"] = ""
    left_out = () if raw.get("add_adapter") else OF_ADAPTER
    said = OWN.get(family, {}) | {k: v for k, v in raw.items() if family in SPECIFIC.get(k, TRANSFORMERS)}
    config = architecture({k: v for k, v in said.items() if k not in left_out} | renamed, str(file))
    if config.output_hidden_size == config.hidden_size:
        config = replace(config, output_hidden_size=0)
    by_architecture = config.feat_extract_norm == "layer"  # so trained by fairseq and all that follow it
    extractor = EXTRACTORS.get(family, WAVE_EXTRACTOR)[0]
    normalise, rate = heard(folder, extractor, None if config.log_mel else by_architecture)
    if config.log_mel and rate != SAMPLE_RATE:
        raise InputError(
            f"{folder}: a network on log-mels takes audio of {SAMPLE_RATE} Hz, and its processor says {rate}"
        )
    return replace(config, do_normalize=normalise and not config.log_mel, sampling_rate=rate)


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


def family_prefix(prefix: str) -> tuple[str, str]:
    """(family, its own part of a prefix), where transformers' classes with a head would put one: `model.hubert.` -> `hubert.`"""
    found = ((family, own) for family, (_, own) in TRANSFORMERS.items() if f".{prefix}".endswith(f".{own}"))
    return next(found, ("", ""))


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under torch's current names, the body's under `wav2vec2.` whatever its family and whatever it was wrapped in. Heads
    lie beside the body: `model.lm_head` where that is `model.wav2vec2`."""
    state = {current_name(key): value for key, value in state.items()}
    prefixes = [key.removesuffix(PROJECTION) for key in state if key.endswith(PROJECTION)]
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    own = family_prefix(prefix)[1]

    def ours(key: str) -> str:
        if own:
            inside = key.startswith(prefix)
            return BODY + key.removeprefix(prefix) if inside else key.removeprefix(prefix.removesuffix(own))
        name = key.removeprefix(prefix)
        return BODY + name if key.startswith(prefix) and name.startswith(BARE) else name

    return {ours(key): value for key, value in state.items()}


def read_adapter(folder: Path, language: str) -> dict[str, Tensor]:
    """The tensors that MMS has for one language: its adapters and its output layer."""
    for name in (f"adapter.{language}.safetensors", f"adapter.{language}.bin"):
        if re.fullmatch(r"[\w-]+", language) and (folder / name).exists():
            return read_tensors(folder / name)
    languages = sorted(file.name.split(".")[1] for file in folder.glob("adapter.*"))
    raise InputError(f"{folder} has no adapter for {language!r}; it has {', '.join(languages[:9]) or 'none'}")


def read_vocabulary(
    folder: Path, state: dict[str, Tensor], language: str = "", weights: str = WEIGHTS
) -> CharTokenizer | None:
    """The vocabulary of a folder, if it has one and the tensors of `weights` an output layer. InputError if they do not go
    together."""
    if "lm_head.weight" not in state:
        return None
    folder = holder(folder, VOCAB)
    if not (folder / VOCAB).exists():
        return None
    outputs = len(state["lm_head.weight"])
    tokenizer = CharTokenizer.load(folder, language, outputs)
    if len(tokenizer) > outputs:
        raise InputError(
            f"{folder / VOCAB} has ids up to {len(tokenizer) - 1} but {weights} has {outputs} outputs; the two files "
            "belong to different models"
        )
    return tokenizer


def read(folder: Path, raw: dict[str, Any], language: str = "") -> Checkpoint:
    """A model folder, whose config.json is `raw`, as a checkpoint; language: with the adapter that MMS has for it."""
    config = read_config(folder, raw)
    state = our_names(read_weights(folder, raw))
    if language:
        state |= read_adapter(folder, language)
    tokenizer = read_vocabulary(folder, state, language)
    checkpoint = Checkpoint(config=config, state=state, tokenizer=tokenizer, raw=raw, source=str(folder / WEIGHTS))
    check_sizes(checkpoint)
    return checkpoint


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """The model as lines of name and value, for `speechssl info`."""
    config = checkpoint.config
    norms = (
        f"{config.feat_extract_norm} norm in the encoder, {'pre' if config.do_stable_layer_norm else 'post'}-LN layers"
    )
    if config.conformer:
        norms = f"conformers, {config.position_embeddings_type or 'no'} positions"
    audio = "log-mels" if config.log_mel else "normalised" if config.do_normalize else "as they are"
    head = head_of(checkpoint.state).removeprefix("For").replace("Model", "none")
    if "classifier.weight" in checkpoint.state:
        head = described(checkpoint.raw, len(checkpoint.state["classifier.weight"]))
    if config.add_adapter:
        head += f" behind an adapter, {SAMPLE_RATE / config.letters.hop:g} Hz"
    return {
        "format": f"{class_name(checkpoint)}, the format of transformers",
        "layers": f"{config.num_hidden_layers} of width {config.hidden_size}, {config.num_attention_heads} heads; {norms}",
        "frame rate": f"{SAMPLE_RATE / config.geometry.hop:g} Hz, each frame sees {config.geometry.receptive_field} samples "
        f"at {SAMPLE_RATE} Hz, {audio}",
        "head": head,
    }
