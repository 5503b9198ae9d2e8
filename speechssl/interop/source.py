"""What a MODEL on the command line, or in `speechssl.load`, may be; its format is recognised, never asked for.

In this order: a run folder (its best checkpoint), a model folder, a file of fairseq, torchaudio or the authors of BYOL-S, the
name of a model that ships with the package, an id of the Hugging Face hub. `MODEL@LANGUAGE` adds an adapter of MMS.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.interop import byols, fairseq, torchaudio
from speechssl.interop.pickles import read_pickle
from speechssl.models import families
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.folder import BIN, CONFIG, WEIGHTS

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
HUB_FILES = ("*.json", "README.md")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read(source: str | Path) -> Checkpoint:
    """The checkpoint behind `source`, whatever its format. InputError says what is wrong with it."""
    name, _, language = str(source).partition("@")
    if Path(source).exists():
        name, language = str(source), ""
    path = locate(name, language)
    if path.is_dir():
        return families.read(path, language)
    if language:
        raise InputError(f"{path} is a single file, without adapters for languages such as {language!r}")
    return read_file(path)


def read_file(path: Path) -> Checkpoint:
    """A file of torch.save's, recognised by what is in it."""
    if path.suffix in (".safetensors", ".bin", ".json"):
        raise InputError(f"{path} is only a part of a model; give the folder that holds it and its {CONFIG}")
    content: Any = read_pickle(path)
    named: dict[str, Any] = content if isinstance(content, dict) else {}
    if isinstance(named.get("model"), dict):
        return fairseq.read(path, named)
    if any(str(key).startswith("encoder.transformer.") and isinstance(value, Tensor) for key, value in named.items()):
        return torchaudio.read(path, {key: value for key, value in named.items() if isinstance(value, Tensor)})
    if byols.recognised(named):
        return byols.read_published(path, named)
    raise InputError(
        f"{path} holds neither a fairseq checkpoint (`model` beside `cfg` or `args`) nor a state dict of torchaudio's "
        f"(`encoder.transformer. ...`) or of BYOL-S's authors; of transformers' models give the folder, with {CONFIG}"
    )


def locate(source: str | Path, language: str = "") -> Path:
    """The model folder or file behind a path, a shipped name ("small") or a hub id."""
    path = Path(source)
    for candidate in (path / "best", path / "last"):
        if (candidate / CONFIG).exists():
            return candidate
    if path.exists():
        return path
    if path == Path(path.name) and (SHIPPED / path.name).is_dir():
        return SHIPPED / path.name
    if HUB_ID.fullmatch(str(source)) and not path.parent.exists():
        return download(str(source), language)
    names = ", ".join(sorted(folder.name for folder in SHIPPED.glob("*") if folder.is_dir()))
    raise InputError(
        f"{source} does not exist; give a run folder, a model folder ({CONFIG} + {WEIGHTS}), a file of fairseq, "
        f"torchaudio or BYOL-S's authors, a hub id (owner/name), or the name of a model that ships with speechssl: {names}"
    )


def download(name: str, language: str) -> Path:
    """The folder of a hub model in huggingface_hub's cache, fetched if it is not there and the hub may be asked."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"{name} does not exist here, and hub ids need the package huggingface-hub: pip install huggingface-hub"
        ) from None
    weights, adapter = "model*.safetensors", f"adapter.{language}.safetensors"
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, weights, adapter]))
        older = [] if any(folder.glob(weights)) else ["pytorch_model*.bin"]  # fetched where nothing better is published
        if language and not (folder / adapter).exists():
            older.append(f"adapter.{language}.bin")
        if older:
            snapshot_download(name, allow_patterns=older)
    except Exception as error:  # of many types: no network, offline mode and no copy, no such model, no right to it
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name} does not exist here and cannot be had from the hub ({type(error).__name__}: {reason})"
        ) from None
    if not any((folder / file).exists() for file in (CONFIG, BIN, WEIGHTS)):
        raise InputError(f"{name} on the hub holds no model that can be opened ({CONFIG} + {WEIGHTS})")
    return folder
