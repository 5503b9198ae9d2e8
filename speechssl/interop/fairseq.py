"""fairseq's .pt files, pretrained or fine-tuned with CTC: read without fairseq, written so that fairseq reads them.

`keys` translates the names of tensors; of the config, only what the tensors do not show is used.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.interop.keys import FAIRSEQ, TRANSFORMERS, traits, translate
from speechssl.interop.pickles import unstubbed
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.wav2vec2.checkpoint import check_sizes, family_of, infer
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.folder import architecture
from speechssl.models.wav2vec2.names import BODY
from speechssl.text.tokenizer import DELIMITER, PAD, UNKNOWN, CharTokenizer, Writing

CTC, HEAD = "w2v_encoder.w2v_model.", "w2v_encoder."
SPECIALS = ("<s>", "<pad>", "</s>", UNKNOWN)
LETTERS = (DELIMITER, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")  # of every published English model, by frequency in LibriSpeech
DICTIONARY = "dict.{}.txt"  # fairseq's file with the symbols of a kind of labels: ltr, phn, ...
SETTINGS = {  # ours: fairseq's
    "num_attention_heads": "encoder_attention_heads",
    "do_stable_layer_norm": "layer_norm_first",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "dropout_input",
    "feat_quantizer_dropout": "dropout_features",
    "layerdrop": "encoder_layerdrop",
    "max_bucket_distance": "max_distance",
}
COUNT = re.compile(r"( \d+)?( #fairseq:overwrite)?$")  # what follows a symbol in a dictionary
STRIDES = {10: 5, 3: 2, 2: 2}  # of every published model, by kernel
NAMES = {  # fairseq's names of a family's model, and of the model around it that is fine-tuned with CTC
    "hubert": ("hubert", "hubert_ctc"),
    "wavlm": ("wavlm", "wav2vec_ctc"),
    "data2vec-audio": ("data2vec_audio", "wav2vec_ctc"),
    "wav2vec2": ("wav2vec2", "wav2vec_ctc"),
}


def read(path: Path, content: dict[str, Any]) -> Checkpoint:
    """A fairseq checkpoint as ours. The vocabulary is in the file, or in dict.ltr.txt or the like beside it."""
    tensors = {key: value for key, value in content["model"].items() if isinstance(value, Tensor)}
    body, task = settings_of(content)
    state, family = translated(tensors, str(body.get("_name") or body.get("arch") or ""))
    if f"{BODY}feature_projection.projection.weight" not in state:
        state |= identity_projection(state)
    config = config_of(state, family, body, bool(task.get("normalize", False)), str(path))
    head = state.get("lm_head.weight")
    tokenizer = None if head is None else vocabulary(path, content, len(head), str(task.get("labels") or "ltr"))
    raw = {"speechssl": {"origin": f"fairseq {path.name}", "train": [str(task["data"])] if task.get("data") else []}}
    checkpoint = Checkpoint(config=config, state=state, tokenizer=tokenizer, raw=raw, source=str(path))
    check_sizes(checkpoint)
    return checkpoint


def settings_of(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of the model's body, of its task); a fine-tuned model keeps those of its pretraining in `w2v_args`."""
    whole = unstubbed(content.get("cfg") or content.get("args") or {})
    model, task = (part if isinstance(part, dict) else whole for part in (whole.get("model"), whole.get("task")))
    inner = model.get("w2v_args") or whole.get("w2v_args")
    if isinstance(inner, dict) and inner:
        part = inner.get("model")
        model = part if isinstance(part, dict) else inner
    return model, task


def translated(tensors: dict[str, Tensor], name: str) -> tuple[dict[str, Tensor], str]:
    """(tensors under our names, family). Names missing from the table stay as they are, and are written back unchanged."""
    bare = {key.removeprefix(CTC): value for key, value in tensors.items()}
    family, position = "wav2vec2", "weight_norm"
    if "hubert" in name or "label_embs_concat" in bare:
        family = "hubert"
    if "encoder.pos_conv.0.running_mean" in bare:
        position = "batch_norm"
    elif "encoder.pos_conv.1.0.weight" in bare:
        family, position = "data2vec-audio", "stacked"
    having = frozenset({"group", "layer", "gated", "ungated", position, family})
    state = {}
    for key, value in bare.items():
        name = translate(key, FAIRSEQ, TRANSFORMERS, having) or key
        state[name] = value[0] if ".adapter_layer." in name else value  # MMS stacks the adapters of several languages
    return state, family_of(state) or family


def identity_projection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The projection that fairseq leaves out, and transformers does not, where encoder and transformer have the same width."""
    norm = state.get(f"{BODY}feature_projection.layer_norm.weight")
    if norm is None:
        return {}
    name = f"{BODY}feature_projection.projection."
    return {name + "weight": torch.eye(len(norm), dtype=norm.dtype), name + "bias": torch.zeros_like(norm)}


def config_of(
    state: dict[str, Tensor], family: str, body: dict[str, Any], normalise: bool, source: str
) -> Wav2Vec2Config:
    """The architecture: read from the tensors, and from fairseq's settings where tensors do not show it."""
    fields = infer(state, source) | {"model_type": family, "do_normalize": normalise}
    layers = list(conv_layers(str(body.get("conv_feature_layers", "")))) if body.get("conv_feature_layers") else []
    guessed = tuple(STRIDES.get(kernel, 1) for kernel in fields["conv_kernel"])
    fields["conv_stride"] = tuple(layer[2] for layer in layers) or guessed
    fields |= {ours: body[theirs] for ours, theirs in SETTINGS.items() if body.get(theirs) is not None}
    return architecture(complete(fields, source), source)


def complete(fields: dict[str, Any], source: str) -> dict[str, Any]:
    """`fields`, with attention heads and the place of the norm as in every published model where neither source gives them."""
    heads = {768: 12, 1024: 16, 1280: 16, 1920: 16}.get(fields["hidden_size"])
    if "num_attention_heads" not in fields and heads is None:
        raise InputError(
            f"{source} does not say how many attention heads its {fields['hidden_size']} channels make, and the weights do "
            "not show it; put its config.json beside it, or convert it where its config is at hand"
        )
    defaults = {"num_attention_heads": heads, "do_stable_layer_norm": fields["feat_extract_norm"] == "layer"}
    return defaults | fields


def conv_layers(text: str) -> Iterator[tuple[int, int, int]]:
    """(channels, kernel, stride) of each layer in fairseq's "[(512, 10, 5)] + [(512, 3, 2)] * 4 + ...": parsed, where fairseq
    calls eval."""
    for term in text.split("+"):
        listed, _, times = term.partition("*")
        try:
            layers = ast.literal_eval(listed.strip())
            repeat = int(times) if times.strip() else 1
            if not 0 < repeat <= 100:
                raise ValueError("too many layers")
            for _ in range(repeat):
                for channels, kernel, stride in layers:
                    yield int(channels), int(kernel), int(stride)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise InputError(f"conv_feature_layers = {text[:80]!r} is not a sum of lists of three numbers") from None


def vocabulary(path: Path, content: dict[str, Any], size: int, labels: str) -> CharTokenizer | None:
    """Symbols from the checkpoint, from the dictionary of its kind of labels beside it, or the English letters; None if their
    number is not `size`. What is not of the checkpoint itself is reported."""
    task = content.get("task_state")
    known = unstubbed(task.get("target_dictionary")) if isinstance(task, dict) else None
    listed = path.parent / DICTIONARY.format(re.sub(r"\W", "", labels))  # HuBERT's task has a list: ['ltr']
    symbols = []
    if isinstance(known, dict) and isinstance(known.get("symbols"), list):
        symbols = [str(symbol) for symbol in known["symbols"]]
    elif listed.exists():
        lines = listed.read_text(encoding="utf-8").splitlines()
        symbols = [*SPECIALS, *(COUNT.sub("", line) for line in lines if line.strip())]
        if len(symbols) != size:
            dist.report(
                f"{listed} has {len(symbols)} symbols with fairseq's own, but {path.name} has {size} outputs; not used"
            )
    elif size == len(SPECIALS + LETTERS) and listed.name == DICTIONARY.format("ltr"):
        symbols = [*SPECIALS, *LETTERS]
        dist.report(f"{path}: no {listed.name} beside it, so its outputs are the English letters of published models")
    if len(symbols) != size:
        return None
    swapped = {"<s>": PAD, "<pad>": "<s>"}  # fairseq's blank is its first symbol, transformers' is the padding
    vocab = {swapped.get(symbol, symbol): i for i, symbol in enumerate(symbols)}
    phones = DELIMITER not in vocab and any(len(symbol) > 1 for symbol in symbols if symbol not in SPECIALS)
    return CharTokenizer(vocab, Writing(phones=phones))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint for fairseq, its config as dictionaries, and dict.ltr.txt beside it."""
    config, state, having = checkpoint.config, dict(checkpoint.state), traits(checkpoint.config)
    if config.add_adapter:
        raise InputError(f"{path} cannot be written: fairseq's models have no add_adapter; choose --to transformers")
    fine_tuned = "lm_head.weight" in state
    projection = identity_projection(state)
    if all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in projection.items()):
        state = {key: value for key, value in state.items() if key not in projection}
    tensors = {}
    for key, value in state.items():
        name = translate(key, TRANSFORMERS, FAIRSEQ, having) or key
        name = (CTC if fine_tuned and not name.startswith(HEAD) else "") + name.removeprefix(BODY)
        tensors[name] = value[None] if ".adapter_layer." in name else value
    body = model_settings(checkpoint)
    task = {"_name": "audio_pretraining", "normalize": config.do_normalize, "data": ""}
    if fine_tuned:
        name = NAMES[config.model_type][1]
        cfg = {"model": {"_name": name, "w2v_path": "", "w2v_args": {"model": body, "task": task}}, "task": task}
    else:
        cfg = {"model": body, "task": task}
    content: dict[str, Any] = {"args": None, "cfg": cfg, "model": tensors, "optimizer_history": [], "extra_state": {}}
    if checkpoint.tokenizer is not None:
        symbols = symbols_of(checkpoint.tokenizer, path)
        content["task_state"] = {"target_dictionary": {"symbols": symbols}}
        listed = path.parent / DICTIONARY.format("ltr")
        if not listed.exists():
            listed.write_text("".join(f"{symbol} 1\n" for symbol in symbols[len(SPECIALS) :]), encoding="utf-8")
    torch.save(content, path)


def symbols_of(tokenizer: CharTokenizer, path: Path) -> list[str]:
    """The vocabulary in fairseq's order; InputError unless the blank is its first symbol."""
    if tokenizer.blank != 0:
        raise InputError(
            f"{path} cannot be written: fairseq's CTC blank is symbol 0 and this vocabulary has it at {tokenizer.blank}; "
            "fine-tune with a vocabulary made here"
        )
    swapped = {PAD: "<s>", "<s>": "<pad>"}
    return [swapped.get(t, t) for t in (tokenizer.tokens.get(i, f"madeupword{i:04d}") for i in range(len(tokenizer)))]


def model_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The body's settings by fairseq's names (cfg.model)."""
    config = checkpoint.config
    layers = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    stacked = config.stacked_positions
    pos = config.conv_pos_kernel_size * config.num_conv_pos_embeddings if stacked else config.num_conv_pos_embeddings
    return {
        "_name": NAMES[config.model_type][0],
        "extractor_mode": "layer_norm" if config.feat_extract_norm == "layer" else "default",
        "conv_feature_layers": " + ".join(f"[{layer}]" for layer in layers),
        "conv_bias": config.conv_bias,
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "activation_fn": "gelu",
        "conv_pos": pos,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "pos_conv_depth": config.num_conv_pos_embeddings if stacked else 1,
        "quantize_targets": "quantizer.codevectors" in checkpoint.state,
        "latent_vars": config.num_codevectors_per_group,
        "latent_groups": config.num_codevector_groups,
        "latent_dim": config.codevector_dim,
        "final_dim": config.proj_codevector_dim,
        **{theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()},
    }
