"""How a process handles freed memory, of which a training step allocates gigabytes again and again; and its threads."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def forget_shapes() -> None:
    """Make oneDNN and torch cache the kernels of 64 shapes instead of 1,024; call it before the first matrix product.

    Hardly two batches of a stream have the same shape, so that cached kernels only fill the memory.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory instead of returning it to the system; False where that is not possible (not glibc).

    The system would hand the memory out again page by page, each filled with zeros: 20 % of a training step on a CPU. The
    peak stays the same. For our own processes only: a library must not do this to the program that imports it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26))
    return mallopt is not None and all(mallopt(name, value) for name, value in wanted)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: for products so small that threads, on a busy machine, mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def resident(name: str) -> float:
    """Memory of this process in MiB: "VmRSS" now, "VmHWM" at its peak. Linux only; nan elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), float("nan"))
