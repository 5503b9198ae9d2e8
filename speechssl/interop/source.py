"""What a MODEL on the command line, or in `speechssl.load`, may be; its format is recognised, never asked for.

In this order: a run folder (its best checkpoint), a model folder, a file of fairseq, torchaudio or the authors of BYOL-S or any
other state dict, the name of a model that ships with the package, an id of the Hugging Face hub. `MODEL@LANGUAGE` adds an adapter
of MMS, `owner/name@REVISION` pins a revision of the hub, and `owner/name@REVISION:LANGUAGE` does both.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.core.errors import InputError
from speechssl.interop import byols, fairseq, statedict
from speechssl.interop.pickles import Stub, read_pickle
from speechssl.models import families
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.folder import BIN, CONFIG, WEIGHTS, read_tensors
from speechssl.models.quantised import dequantised
from speechssl.sound.files import EXTENSIONS

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
HUB_FILES = ("*.json", "README.md")
BEST_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
OLDER_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")  # fetched where nothing better is published
EXPORTED = (".onnx", ".pt2")
LANGUAGE = re.compile(r"[a-z]{3}(-(script|dialect)_\w+)?")  # as MMS names them
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class Named(NamedTuple):
    """A MODEL taken apart: a path, shipped name or hub id; a language of MMS; a revision of the hub."""

    name: str
    language: str = ""
    revision: str = ""


def parsed(source: str | Path) -> Named:
    """MODEL, MODEL@LANGUAGE, owner/name@REVISION or owner/name@REVISION:LANGUAGE, of which either may be empty.

    Without a colon three letters, as MMS names languages, are a language, and so is whatever follows a model that is here.
    """
    name, _, rest = str(source).partition("@")
    if not rest or Path(source).exists():
        return Named(str(source))
    revision, colon, language = rest.partition(":")
    if colon:
        return Named(name, language, revision)
    return Named(name, rest) if LANGUAGE.fullmatch(rest) or is_here(name) else Named(name, "", rest)


def is_here(name: str) -> bool:
    """Whether a name is a path or a model that ships with the package."""
    return Path(name).exists() or (name == Path(name).name and (SHIPPED / name).is_dir())


def read(source: str | Path) -> Checkpoint:
    """The checkpoint behind `source`, whatever its format. InputError says what is wrong with it."""
    named = parsed(source)
    path = locate(*named)
    if path.is_dir():
        return families.read(path, named.language)
    if named.language:
        raise InputError(f"{path} is a single file, without adapters for languages such as {named.language!r}")
    return read_file(path)


def read_file(path: Path) -> Checkpoint:
    """A file of tensors, recognised by what is in it."""
    if path.suffix == ".json":
        raise InputError(f"{path} is only a part of a model; give the folder that holds it and its {CONFIG}")
    if path.suffix.lower() in EXTENSIONS:
        raise InputError(f"{path} is audio, not a model; the model comes first, then what it is given")
    if path.suffix in EXPORTED:
        raise InputError(
            f"{path} is an exported graph, which is not opened again; give the model that it was made from"
        )
    content: Any = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    named: dict[str, Any] = content if isinstance(content, dict) else {}
    if {"model_weight", "model_cfg", "task_cfg"} <= set(named):  # as s3prl converts fairseq's
        named = {"model": named["model_weight"], "cfg": {"model": named["model_cfg"], "task": named["task_cfg"]}}
    if byols.recognised(named):
        return byols.read_published(path, named)
    state = statedict.tensors_of(named)
    families.check_whole(path, state)
    state = dequantised(state, path)
    layout = statedict.layout_of(state, path)
    settings = any(named.get(part) for part in ("cfg", "args"))
    if isinstance(named.get("model"), dict) and (settings or layout is None):
        return fairseq.read(path, named)
    if layout is not None:
        return statedict.read(path, state, layout)
    if isinstance(content, Stub):
        raise InputError(
            f"{path} holds a whole Python object, which is not executed; save its tensors, model.state_dict()"
        )
    raise InputError(
        f"{path} holds neither a fairseq checkpoint (`model` beside `cfg` or `args`) nor a state dict of a known network, with "
        "the names of transformers, fairseq, torchaudio or BYOL-S's authors"
    )


def locate(source: str | Path, language: str = "", revision: str = "") -> Path:
    """The model folder or file behind a path, a shipped name ("small") or a hub id."""
    path = Path(source)
    if revision and is_here(str(source)):
        raise InputError(
            f"{source} is on this machine, and only models of the hub have revisions; leave {revision!r} out"
        )
    for candidate in (path / "best", path / "last"):
        if (candidate / CONFIG).exists():
            return candidate
    if path.exists():
        return path
    if path == Path(path.name) and (SHIPPED / path.name).is_dir():
        return SHIPPED / path.name
    if HUB_ID.fullmatch(str(source)) and not path.parent.exists():
        return download(str(source), language, revision)
    names = ", ".join(sorted(folder.name for folder in SHIPPED.glob("*") if folder.is_dir()))
    raise InputError(
        f"{source} does not exist; give a run folder, a model folder ({CONFIG} + {WEIGHTS}), a file of fairseq, "
        f"torchaudio or BYOL-S's authors, a hub id (owner/name), or the name of a model that ships with speechssl: {names}"
    )


def download(name: str, language: str, revision: str) -> Path:
    """The folder of a hub model in huggingface_hub's cache, fetched if it is not there and the hub may be asked. Of the formats
    that a model is published in only one is fetched."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"{name} does not exist here, and hub ids need the package huggingface-hub: pip install huggingface-hub"
        ) from None
    adapter = f"adapter.{language}.safetensors"
    pinned: dict[str, Any] = {"revision": revision} if revision else {}

    def fetch(*files: str) -> Path:
        return Path(snapshot_download(name, allow_patterns=list(files), **pinned))

    try:
        folder = fetch(*HUB_FILES, *BEST_WEIGHTS, *([adapter] if language else []))
        older = [] if any(any(folder.glob(weights)) for weights in BEST_WEIGHTS) else [*OLDER_WEIGHTS]
        if language and not (folder / adapter).exists():
            older.append(f"adapter.{language}.bin")
        if older:
            folder = fetch(*older)
    except Exception as error:  # of many types: no network, offline mode and no copy, no such model, no right to it
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        wanted = f"{name} at revision {revision!r}" if revision else name
        raise InputError(
            f"{wanted} does not exist here and cannot be had from the hub ({type(error).__name__}: {reason})"
        ) from None
    if not any((folder / file).exists() for file in (CONFIG, BIN, WEIGHTS)):
        raise InputError(f"{name} on the hub holds no model that can be opened ({CONFIG} + {WEIGHTS})")
    return folder
