"""The verbs `convert` (a model in another library's format) and `info` (facts about a model)."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, writing
from speechssl.interop import fairseq, torchaudio
from speechssl.interop.source import locate, parsed, read
from speechssl.models import families
from speechssl.models.checkpoint import Checkpoint
from speechssl.sound.audio import SAMPLE_RATE

WRITERS: dict[str, Callable[[Path, Checkpoint], list[str] | None]] = {
    "transformers": families.write,
    "fairseq": fairseq.write,
    "torchaudio": torchaudio.write,
    "speechssl": families.write,  # the same folder: what speechssl saves is what transformers reads
}


def convert(source: str | Path, target: Path, to: str) -> str:
    """Write the model `source` as `target`, a folder or (fairseq, torchaudio) a file, without changing a bit of its tensors.

    Returns a line of summary. InputError if the target exists, or its format cannot hold the model.
    """
    if target.exists():
        raise InputError(f"{target} exists; choose another name, nothing is overwritten")
    if to == "torchaudio" and torchaudio.sidecar(target).exists():
        raise InputError(f"{torchaudio.sidecar(target)} exists; choose another name, nothing is overwritten")
    checkpoint = read(source)
    families.require(checkpoint.config.model_type, str(source), families.with_format(to), f"convert --to {to}")
    if to in ("fairseq", "torchaudio") and checkpoint.config.sampling_rate != SAMPLE_RATE:
        raise InputError(f"{source} takes audio of {checkpoint.config.sampling_rate} Hz, which {to} has no place for")
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
    """Facts about a model, as lines of name and value."""
    checkpoint = read(source)
    raw = checkpoint.raw
    card, ours = model_card(source), dict(raw.get("speechssl") or {})
    network = families.family(checkpoint).describe(checkpoint)
    known = {
        "model": f"{source} ({ours.get('origin') or network['format']})",
        "family": checkpoint.config.model_type,
        "layers": network["layers"],
        "frame rate": network["frame rate"],
        "parameters": f"{parameters(checkpoint):,}",
        "head": network["head"],
        "vocabulary": vocabulary(checkpoint),
        "trained on": ", ".join(ours.get("train") or card.get("datasets") or []) or "not recorded",
        "licence": raw.get("license") or ours.get("licence") or card.get("license") or "not recorded",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in known.items())


def parameters(checkpoint: Checkpoint) -> int:
    """Number of learned parameters: all tensors but the statistics of batch norm and of log-mels."""
    counted = ("running_mean", "running_var", "num_batches_tracked", "mel_stats")
    return sum(value.numel() for key, value in checkpoint.state.items() if not key.endswith(counted))


def vocabulary(checkpoint: Checkpoint) -> str:
    """The symbols of a CTC model."""
    if checkpoint.tokenizer is None:
        return "none"
    tokens = [token for _, token in sorted(checkpoint.tokenizer.tokens.items())]
    return f"{len(tokens)} symbols: {' '.join(tokens[:40])}{' ...' if tokens[40:] else ''}"


def model_card(source: str | Path) -> dict[str, Any]:
    """Licence and data sets from the YAML at the head of a folder's README.md, the model card of the hub."""
    file = locate(*parsed(source)) / "README.md"
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
