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
}
KINDS = [(family, style) for family in FAMILIES for style in STYLES if (family, style) != ("data2vec-audio", "pre")]
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")


def make(family: str = "wav2vec2", style: str = "post", head: str = "ForCTC", seed: int = 1, **changes):
    """A random model in evaluation mode, all of whose weights, norms and biases included, differ from their defaults."""
    name, own = FAMILIES[family]
    fields = SIZES | STYLES[style] | own | changes
    if family == "data2vec-audio":
        fields = {k: v for k, v in fields.items() if k not in ("feat_extract_norm", "do_stable_layer_norm")}
    torch.manual_seed(seed)
    model = getattr(transformers, name + head)(getattr(transformers, name + "Config")(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.abs().mean().clamp_min(0.2))
    return model


def save(model, folder: Path, *, normalise: bool | None = None, vocab: tuple[str, ...] = (), **tokenizer) -> Path:
    """A folder as `save_pretrained` writes it, with a preprocessor and a vocabulary if asked for."""
    model.save_pretrained(folder)
    if normalise is not None:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    if vocab:
        import json

        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
        transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **tokenizer).save_pretrained(folder)
    return folder


def clips(speech: np.ndarray) -> list[np.ndarray]:
    """Three utterances of very unequal lengths."""
    return [speech[:23_456], speech[30_000:31_111], speech[40_000:52_000]]


@torch.no_grad()
def reference(model, wave: np.ndarray):
    """(hidden states (L + 1, T, D), logits or None) that transformers gives for one utterance alone.

    It leaves the final norm of pre-LN models out of its list of states; `last_hidden_state` has it, and so has ours.
    """
    wave_BS = torch.from_numpy(wave)[None]
    out = model(wave_BS, output_hidden_states=True)
    last = model.base_model(wave_BS).last_hidden_state
    return torch.cat([*out.hidden_states[:-1], last]), getattr(out, "logits", None)
