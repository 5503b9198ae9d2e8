"""Several processes under torchrun; with one process every collective here is a no-op."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as td

from speechssl.core.errors import InputError

T = TypeVar("T")


def rank() -> int:
    """This process's number, from 0."""
    return td.get_rank() if td.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return td.get_world_size() if td.is_initialized() else 1


def from_rank_0(measure: Callable[[], T]) -> T:
    """What `measure` gives on rank 0, the same on every rank."""
    found = [measure() if rank() == 0 else None]
    if td.is_initialized():
        td.broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def usable(device: str) -> str:
    """`device` as torch writes it, auto being a GPU where there is one; InputError if this machine has no such device."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    number = device.removeprefix("cuda:")
    if device != "cpu" and not (number.isdigit() and int(number) < torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise InputError(
            f"there is no device {device!r}; this machine has cpu" + (f" and cuda:0 ... {count - 1}" if count else "")
        )
    return device


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute float32 convolutions in float32 on a GPU, where torch by default rounds their inputs to 10 bits (TF32)."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, conv.fp32_precision = conv.fp32_precision, "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the other processes of torchrun for a training run; gives the device of this one."""
    device = usable(device)
    if device != "cpu":
        torch.cuda.set_device(device)
    if several() and not td.is_initialized():
        td.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")  # logs add up on the host
    try:
        with exact_convolutions():
            yield device
    finally:
        leave()


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Join the other processes for work that each does at its own pace, waiting for the others only at the end."""
    if several() and not td.is_initialized():
        td.init_process_group("gloo", timeout=timedelta(days=365))
    try:
        yield
    finally:
        leave()


def several() -> bool:
    """Whether torchrun started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leave() -> None:
    """Leave the process group."""
    if td.is_initialized():
        td.destroy_process_group()


def report(message: str) -> None:
    """Print one line to stderr, on rank 0 only."""
    if rank() == 0:
        print(message, file=sys.stderr)


def bf16_is_fast(device: str) -> bool:
    """Whether every process multiplies matrices faster in bf16 than in float32, which a CPU without such instructions
    emulates several times slower. Measured, in a tenth of a second: no flag says it for every processor."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    seconds = {torch.bfloat16: float("inf"), torch.float32: float("inf")}
    for _ in range(3):
        for kind in seconds:
            x, weight = torch.ones(128, 512, dtype=kind), torch.ones(512, 512, dtype=kind)
            began = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            seconds[kind] = min(seconds[kind], time.perf_counter() - began)
    return all_sum_float(seconds[torch.bfloat16] < seconds[torch.float32]) == world()


def all_sum(x: Tensor) -> Tensor:
    """Sum over all processes; `x` itself with one process. No gradient flows through it."""
    if world() == 1:
        return x
    total = x.detach().clone()
    td.all_reduce(total)
    return total


class AllSum(torch.autograd.Function):
    """Sum over all processes; its gradient is summed over them too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return all_sum(x)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return all_sum(grads[0].contiguous())


def all_sum_grad(x: Tensor) -> Tensor:
    """Like `all_sum`, and the gradient flows to every process's part."""
    return x if world() == 1 else AllSum.apply(x)


def all_gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all processes in the order of ranks; their numbers of rows may differ."""
    if world() == 1:
        return x
    counts = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(world())]
    td.all_gather(counts, torch.tensor(len(x), device=x.device))
    padded = x.new_zeros(int(max(counts)), *x.shape[1:])
    padded[: len(x)] = x
    pieces = [torch.empty_like(padded) for _ in counts]
    td.all_gather(pieces, padded)
    return torch.cat([piece[: int(count)] for piece, count in zip(pieces, counts, strict=True)])


def all_sum_float(x: float) -> float:
    """Sum of a host number over all processes."""
    if world() == 1:
        return float(x)
    return float(all_sum(torch.tensor(float(x), dtype=torch.float64)))


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank; every rank gets the same answer."""
    return all_sum_float(flag) > 0


def barrier() -> None:
    """Wait for the other processes."""
    if world() > 1:
        td.barrier()
