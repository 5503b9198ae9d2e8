"""Read what torch.save wrote without trusting it: no class or function that a file names is imported or called.

What builds ordinary tensors is allowed. Classes of the libraries that fairseq's checkpoints refer to become `Stub`s, which keep
an object's contents; any other name is refused. torch's own `weights_only=True` must be given the names of such classes
beforehand, cannot list them for files from before torch 1.6, and lets meta and sparse tensors through.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.models.folder import check_fetched

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch's files began before 1.6
KNOWN = ("argparse", "omegaconf", "fairseq", "numpy", "enum", "typing", "pathlib", "hydra", "data2vec", "examples")
KNOWN += ("pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics", "transformers", "s3prl")
DEEPEST = 50  # nesting of a config


class Stub:
    """Stands for an object whose class is not imported: its constructor's `args`, its `state` and its `items`."""

    def __init__(self, *args: Any, **_: Any) -> None:
        self.args, self.state, self.items = args, None, []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Add an item, as a list does."""
        self.items.append((None, value))


def rebuild(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """A tensor on its storage; UnpicklingError if it exceeds the storage, which torch would enlarge."""
    room = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= room):
        raise pickle.UnpicklingError("a tensor is larger than its data")
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)


SAFE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("torch._utils", "_rebuild_tensor_v2"): rebuild,
    ("torch._utils", "_rebuild_tensor"): rebuild,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *_: "cpu",
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): lambda text, *_: str(text).encode("latin1"),
    **{("builtins", name): Stub for name in ("int", "float", "str", "bool", "bytes", "tuple", "getattr")},
}


class Unpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the one in C: one byte makes it allocate gigabytes
    """Builds tensors, containers and Stubs, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Map a global of the pickle to a safe stand-in; nothing is imported."""
        if (module, name) in SAFE:
            return SAFE[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.split(".")[0] in KNOWN or module.startswith("torch.nn.modules."):
            return Stub
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs: do not trust it")


def load(file: Any, **options: Any) -> Any:
    """pickle.load with the Unpickler above; torch calls it for files from before 1.6."""
    return Unpickler(file, **options).load()


RESTRICTED: Any = SimpleNamespace(Unpickler=Unpickler, load=load, __name__="restricted")


def read_pickle(path: Path) -> Any:
    """The contents of a file of torch.save, on the CPU. InputError if it is damaged or needs more than data."""
    check_fetched(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(LEGACY))
        if start[:4] == b"PK\x03\x04":
            check_archive(path)
        elif start != LEGACY:
            raise pickle.UnpicklingError("it is not a file of torch.save")
        return torch.load(path, map_location="cpu", pickle_module=RESTRICTED, weights_only=False)
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} cannot be read as a checkpoint: {reason.rstrip('.')}") from None


def check_archive(path: Path) -> None:
    """Refuse an archive that grows when unpacked, which torch never writes, and one that holds a program."""
    entries = zipfile.ZipFile(path).infolist()
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise pickle.UnpicklingError(
            "it is a TorchScript program; only a state dict or a fairseq checkpoint can be opened"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise pickle.UnpicklingError("it is compressed, which torch.save never does: do not trust it")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise pickle.UnpicklingError("its parts overlap, or it is cut short: do not trust it")


def unstubbed(value: Any, depth: int = 0) -> Any:
    """`value` as dictionaries, lists, strings and numbers, whichever library the config was written with."""
    if depth > DEEPEST:
        return None
    if isinstance(value, Stub):
        state = value.state
        if isinstance(state, tuple):  # of an object with __slots__
            state = state[1] or state[0]
        if isinstance(state, dict):
            for content in ("_content", "_val"):  # omegaconf's containers and its leaves
                if content in state:
                    return unstubbed(state[content], depth + 1)
            return unstubbed(
                {key: item for key, item in state.items() if not str(key).startswith("_parent")}, depth + 1
            )
        if value.items:
            keyed = any(key is not None for key, _ in value.items)
            return unstubbed(dict(value.items) if keyed else [item for _, item in value.items], depth + 1)
        return unstubbed(value.args[0], depth + 1) if value.args else None  # an enum is made with its value
    if isinstance(value, dict):
        return {str(key): unstubbed(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [unstubbed(item, depth + 1) for item in value]
    return value if isinstance(value, (str, int, float, bool)) else None
