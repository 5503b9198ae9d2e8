"""The verbs `convert` and `info`: a model in another library's format, and what is known about a model."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, writing
from speechssl.interop import fairseq, torchaudio
from speechssl.interop.source import locate, read
from speechssl.models.byols.model import ByolsConfig
from speechssl.models.checkpoint import Checkpoint, require_wav2vec2
from speechssl.models.wav2vec2 import folder as huggingface
from speechssl.sound.audio import SAMPLE_RATE

WRITERS: dict[str, Callable[[Path, Checkpoint], list[str] | None]] = {
    "transformers": huggingface.write,
    "fairseq": fairseq.write,
    "torchaudio": torchaudio.write,
    "speechssl": huggingface.write,  # the same folder: what speechssl saves is what transformers reads
}


def convert(source: str | Path, target: Path, to: str) -> str:
    """Write the model `source` as `target`, a folder or (fairseq, torchaudio) a file, its tensors bit for bit the same.

    Returns what to tell the user. InputError if the target exists, or its format cannot hold the model.
    """
    if target.exists():
        raise InputError(f"{target} exists; choose another name, nothing is overwritten")
    if to == "torchaudio" and torchaudio.sidecar(target).exists():
        raise InputError(f"{torchaudio.sidecar(target)} exists; choose another name, nothing is overwritten")
    checkpoint = read(source)
    require_wav2vec2(checkpoint.config, str(source), "convert")
    output_folder(target.parent)
    draft = target.with_name(f".draft-{target.name}")
    try:
        with writing(target, RuntimeError, SafetensorError):
            left_out = WRITERS[to](draft, checkpoint) or []
            if to == "torchaudio":
                torchaudio.sidecar(draft).rename(torchaudio.sidecar(target))
            draft.rename(target)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)
    lost = f"; {to} has no place for {', '.join(left_out[:6])}{' ...' if left_out[6:] else ''}" if left_out else ""
    return f"{target}: {checkpoint.config.model_type} for {to}, {len(checkpoint.state) - len(left_out)} tensors{lost}"


def info(source: str | Path) -> str:
    """What a model is, as lines of name and value."""
    checkpoint = read(source)
    raw = checkpoint.raw
    card, ours = model_card(source), dict(raw.get("speechssl") or {})
    described = describe_byols if isinstance(checkpoint.config, ByolsConfig) else describe_wav2vec2
    origin, network = described(checkpoint)
    known = {
        "model": f"{source} ({ours.get('origin') or origin})",
        **network,
        "parameters": f"{parameters(checkpoint):,}",
        "head": checkpoint.head.removeprefix("For") if checkpoint.head != "Model" else "none",
        "vocabulary": vocabulary(checkpoint),
        "trained on": ", ".join(ours.get("train") or card.get("datasets") or []) or "not recorded",
        "licence": raw.get("license") or ours.get("licence") or card.get("license") or "not recorded",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in known.items())


def describe_wav2vec2(checkpoint: Checkpoint) -> tuple[str, dict[str, str]]:
    """Whose format it is, and the network as lines."""
    config = checkpoint.config
    norms = (
        f"{config.feat_extract_norm} norm in the encoder, {'pre' if config.do_stable_layer_norm else 'post'}-LN layers"
    )
    return f"{huggingface.class_name(checkpoint)}, transformers' format", {
        "family": config.model_type,
        "layers": f"{config.num_hidden_layers} of width {config.hidden_size}, {config.num_attention_heads} heads; {norms}",
        "frame rate": f"{SAMPLE_RATE / config.geometry.hop:g} Hz, each frame sees {config.geometry.receptive_field} samples "
        f"at {SAMPLE_RATE} Hz, {'normalised' if config.do_normalize else 'as they are'}",
    }


def describe_byols(checkpoint: Checkpoint) -> tuple[str, dict[str, str]]:
    """The same for BYOL-S."""
    config = checkpoint.config
    return "speechssl's format", {
        "family": "byol-s",
        "layers": f"encoder {config.encoder}, its frames pooled by {config.pool}",
        "frame rate": f"{SAMPLE_RATE / config.geometry.hop:g} Hz, on the {config.frontend} log-mels of {SAMPLE_RATE} Hz",
    }


def parameters(checkpoint: Checkpoint) -> int:
    """Numbers that are learned: every tensor but statistics, batch norm's and those of log-mels."""
    counted = ("running_mean", "running_var", "num_batches_tracked", "mel_stats")
    return sum(value.numel() for key, value in checkpoint.state.items() if not key.endswith(counted))


def vocabulary(checkpoint: Checkpoint) -> str:
    """The symbols of a CTC model."""
    if checkpoint.tokenizer is None:
        return "none"
    tokens = [token for _, token in sorted(checkpoint.tokenizer.tokens.items())]
    return f"{len(tokens)} symbols: {' '.join(tokens[:40])}{' ...' if tokens[40:] else ''}"


def model_card(source: str | Path) -> dict[str, Any]:
    """licence and data sets from the head of a folder's README.md, as the hub writes it (a few lines of YAML)."""
    file = locate(str(source).partition("@")[0] if not Path(source).exists() else source) / "README.md"
    if not file.is_file():
        return {}
    head = re.match(r"---\n(.*?)\n---", file.read_text(encoding="utf-8", errors="replace")[:20_000], re.DOTALL)
    text = head[1] if head else ""
    licence = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
    listed = re.search(r"^datasets:\s*\n((?:\s*- .*\n?)+)", text, re.MULTILINE)
    return {
        "license": licence[1] if licence else None,
        "datasets": re.findall(r"- (\S+)", listed[1]) if listed else [],
    }
