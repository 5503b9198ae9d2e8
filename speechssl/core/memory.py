"""How the process deals with freed memory: a step of this size asks for gigabytes, and the same ones every time."""

import ctypes
import os
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def forget_shapes() -> None:
    """Let oneDNN and torch keep the kernels of 64 shapes each, not of 1,024: the batches of a stream all differ in shape, so
    that such kernels fill memory and are never used again. To be called before the first product."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free instead of returning it to the system, which hands it out again page by
    page, each filled with zeros: 20 % of a training step on a CPU. True where that is possible (glibc). For processes of
    our own, not for a library to do behind its user's back; the peak of the memory stays the same."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26))
    return mallopt is not None and all(mallopt(name, value) for name, value in wanted)


def resident(name: str) -> float:
    """Memory of this process in MiB: VmRSS now, VmHWM at most so far. Linux only; nan elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), float("nan"))
