"""A model folder, config.json + model.safetensors, whatever the family; nothing in it is executed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.models.quantised import check, dequantised

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OTHERS = (".h5", ".msgpack", ".onnx", ".gguf")  # endings of weights that other frameworks have written
BIN, INDEX = "pytorch_model.bin", ".index.json"
POINTER = b"version https://git-lfs"  # how a file begins that git has not fetched
LONGEST_JSON = 64 << 20  # bytes; the vocabulary of MMS, a thousand languages, has five million


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise InputError(
                f"{path} has {path.stat().st_size >> 20} MiB, which no model's settings have; do not trust it"
            )
        value = json.loads(path.read_text(encoding="utf-8-sig"))  # with a BOM or without
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} is missing: {path.parent} is not a model folder (config.json + {WEIGHTS})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid JSON ({error}); the folder is damaged, copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object; the folder is damaged, copy it again")
    return value


def class_names(raw: dict[str, Any], count: int) -> list[str]:
    """The names of a classifier's outputs, as its config.json has them, else LABEL_0 ... as transformers calls them."""
    named = raw.get("id2label")
    named = named if isinstance(named, dict) else {}
    return [str(named.get(str(i), f"LABEL_{i}")) for i in range(count)]


def described(raw: dict[str, Any], count: int) -> str:
    """A classifier in words."""
    names = class_names(raw, count)
    return f"{count} classes: {', '.join(names[:12])}{' ...' if count > 12 else ''}"


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
    others = ", ".join(sorted(file.name for file in folder.iterdir() if file.suffix in OTHERS))
    of_others = f"; {others} cannot be opened, for it is not PyTorch's" if others else ""
    raise InputError(f"{folder / WEIGHTS} is missing; a model folder is config.json + {WEIGHTS} (or {BIN}){of_others}")


def check_fetched(path: Path) -> None:
    """InputError for a file of Git LFS that says only where its contents are."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise InputError(
                f"{path} is only a pointer of Git LFS to the weights; fetch them with `git lfs pull`, or download the file"
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one .safetensors or .bin file; of a .bin nothing but tensors is unpickled."""
    loads: dict[bool, Callable[[Path], Any]] = {
        True: load_file,
        False: lambda file: torch.load(file, map_location="cpu", weights_only=True),
    }
    check_fetched(path)
    try:
        state = loads[path.suffix == ".safetensors"](path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; a model folder is config.json + {WEIGHTS}") from None
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read ({error}); it is damaged or cut short, copy it again") from None
    except Exception as error:  # whatever a damaged or hostile pickle provokes
        said = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]  # no advice
        reason = " ".join(said.split())[:120]
        raise InputError(f"{path} cannot be read as tensors ({reason}); it is damaged, or do not trust it") from None
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(f"{path} holds more than tensors; only a state dict can be opened")
    return state


def read_weights(folder: Path, raw: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a model folder, whose config.json is `raw`, in floating point."""
    check(folder / CONFIG, raw)
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= read_tensors(file)
    return dequantised(state, folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object as a file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tensors(folder: Path, state: dict[str, Tensor]) -> None:
    """model.safetensors, with the access rights of config.json: the library would let nobody else read it."""
    save_file({key: value.contiguous() for key, value in state.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)
