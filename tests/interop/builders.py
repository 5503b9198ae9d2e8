"""Tiny random models of every family, made by transformers, and the three files of other libraries made from them."""

from pathlib import Path

import numpy as np
import torch
import transformers

SIZES = dict(
    conv_dim=[24] * 7,
    conv_kernel=[10, 3, 3, 3, 3, 2, 2],
    conv_stride=[5, 2, 2, 2, 2, 2, 2],
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    num_codevectors_per_group=8,
    codevector_dim=16,
    proj_codevector_dim=12,
    vocab_size=32,
)
STYLES = {
    "post": dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False),
    "pre": dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
}
FAMILIES = {
    "wav2vec2": ("Wav2Vec2", {}),
    "hubert": ("Hubert", {}),
    "wavlm": ("WavLM", dict(num_buckets=32, max_bucket_distance=40)),
    "data2vec-audio": ("Data2VecAudio", dict(num_conv_pos_embeddings=3, conv_pos_kernel_size=7)),
    "unispeech": ("UniSpeech", {}),
    "unispeech-sat": ("UniSpeechSat", {}),
    "wav2vec2-conformer": ("Wav2Vec2Conformer", dict(hidden_act="swish", conv_depthwise_kernel_size=5)),
    "wav2vec2-bert": (
        "Wav2Vec2Bert",
        dict(conv_depthwise_kernel_size=5, left_max_position_embeddings=12, right_max_position_embeddings=4),
    ),
}
UNSTYLED = ("data2vec-audio", "wav2vec2-bert")  # families of a single norm style, whose configs have no fields for it
KINDS = [(family, style) for family in FAMILIES for style in STYLES if not (family in UNSTYLED and style == "pre")]
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")


def make(family: str = "wav2vec2", style: str = "post", head: str = "ForCTC", seed: int = 1, **changes):
    """A random model in evaluation mode, all of whose weights, norms and biases included, differ from their defaults."""
    name, own = FAMILIES[family]
    fields = SIZES | STYLES[style] | own | changes
    if family in UNSTYLED:
        fields = {k: v for k, v in fields.items() if k not in ("feat_extract_norm", "do_stable_layer_norm")}
    if family == "wav2vec2-bert":
        fields = {k: v for k, v in fields.items() if "conv_" not in k or k in own}
    torch.manual_seed(seed)
    model = getattr(transformers, name + head)(getattr(transformers, name + "Config")(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.abs().mean().clamp_min(0.2))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model


def save(model, folder: Path, *, normalise: bool | None = False, vocab: tuple[str, ...] = (), **tokenizer) -> Path:
    """A folder as `save_pretrained` writes it, with a preprocessor and a vocabulary if asked for."""
    model.save_pretrained(folder)
    if normalise is not None:
        extractor(model, normalise).save_pretrained(folder)
    if vocab:
        import json

        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
        transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **tokenizer).save_pretrained(folder)
    return folder


def extractor(model, normalise: bool = False):
    """transformers' feature extractor for a model."""
    if model.config.model_type == "wav2vec2-bert":
        return transformers.SeamlessM4TFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise)


def inputs(model, wave: np.ndarray) -> dict[str, torch.Tensor]:
    """What a model takes of one utterance; no mask where no frame is padded."""
    found = extractor(model)(wave, sampling_rate=16_000, return_tensors="pt")
    return {key: value for key, value in found.items() if key != "attention_mask" or not value.all()}


def clips(speech: np.ndarray) -> list[np.ndarray]:
    """Three utterances of very unequal lengths."""
    return [speech[:23_456], speech[30_000:31_111], speech[40_000:52_000]]


@torch.no_grad()
def reference(model, wave: np.ndarray):
    """(hidden states (L + 1, T, D), logits or None) that transformers gives for one utterance alone.

    It leaves the final norm of pre-LN models out of its list of states; `last_hidden_state` has it, and so has ours.
    """
    taken = inputs(model, wave)
    out = model(**taken, output_hidden_states=True)
    last = model.base_model(**taken).last_hidden_state
    return torch.cat([*out.hidden_states[:-1], last]), getattr(out, "logits", None)


FAIRSEQ_NAMES = (  # written down independently of the package's table, in the order of transformers' own converter
    (r"^(wav2vec2|hubert|wavlm|data2vec_audio)\.", ""),
    (r"^masked_spec_embed$", "mask_emb"),
    (r"(conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
    (r"^encoder\.pos_conv_embed\.conv\.bias", "encoder.pos_conv.0.bias"),
    (r"^encoder\.pos_conv_embed\.layers\.(\d)\.conv\.", r"encoder.pos_conv.\1.0."),
    (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
    (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
    (r"\.attention\.gru_rel_pos_const", ".self_attn.grep_a"),
    (r"\.attention\.", ".self_attn."),
    (r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
    (r"^quantizer\.codevectors", "quantizer.vars"),
    (r"^project_hid\.", "final_proj."),
)


def fairseq_state(model, *, fine_tuned: bool) -> dict[str, torch.Tensor]:
    """A model's tensors under fairseq's names."""
    import re

    state = {}
    layered = getattr(model.config, "feat_extract_norm", "layer") == "layer"
    for key, value in model.state_dict().items():
        name = key
        name = re.sub(r"(conv_layers\.\d+)\.layer_norm\.", r"\1.2.1." if layered else r"\1.2.", name)
        for pattern, replacement in FAIRSEQ_NAMES:
            name = re.sub(pattern, replacement, name)
        inside = "w2v_encoder.w2v_model." + name if fine_tuned else name
        state[re.sub(r".*lm_head\.", "w2v_encoder.proj.", inside)] = value.clone()
    return state


def fairseq_settings(config, name: str, **changes) -> dict:
    """cfg.model as fairseq's own configs spell it."""
    return {
        "_name": name,
        "layer_norm_first": getattr(config, "do_stable_layer_norm", False),
        "conv_feature_layers": "[(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24,2,2)] + [(24,2,2)]",
        "encoder_attention_heads": config.num_attention_heads,
        "encoder_layerdrop": 0.05,
        "dropout": 0.1,
        "num_buckets": getattr(config, "num_buckets", 0),
        "max_distance": getattr(config, "max_bucket_distance", 800),
        **changes,
    }


class Foreign:
    """Pickles objects as classes of libraries that are not installed here (and must not be needed for reading)."""

    def __init__(self, module: str, name: str) -> None:
        self.kind = type(name, (), {"__module__": module, "__qualname__": name})
        self.module = module

    def __call__(self, **state):
        made = self.kind()
        made.__dict__.update(state)
        return made


def dict_config(values: dict):
    """A pickled omegaconf.DictConfig: nodes that point back at their parent."""
    container, leaf = foreign("omegaconf.dictconfig", "DictConfig"), foreign("omegaconf.nodes", "AnyNode")
    made = container(_metadata=None, _parent=None, _flags_cache=None)
    made._content = {
        key: dict_config(value) if isinstance(value, dict) else leaf(_val=value, _parent=made)
        for key, value in values.items()
    }
    return made


def foreign(module: str, name: str) -> Foreign:
    """One class per name."""
    return FOREIGN.setdefault((module, name), Foreign(module, name))


FOREIGN: dict[tuple[str, str], Foreign] = {}


def torch_save_foreign(content, path: Path, **options) -> Path:
    """torch.save while the foreign classes can be found; afterwards their modules are gone again."""
    import sys
    import types

    added = {}
    for (module, name), made in FOREIGN.items():
        for end in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:end])
            added.setdefault(part, types.ModuleType(part))
        setattr(added[module], name, made.kind)
    hidden = {part: sys.modules.get(part) for part in added}
    sys.modules.update(added)
    try:
        torch.save(content, path, **options)
    finally:
        for part, before in hidden.items():
            if before is None:
                del sys.modules[part]
            else:
                sys.modules[part] = before
    return path
