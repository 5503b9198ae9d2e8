"""Several processes under torchrun; on one process every function here is a no-op."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as td

from speechssl.core.errors import InputError


def rank() -> int:
    """This process's number, from 0."""
    return td.get_rank() if td.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return td.get_world_size() if td.is_initialized() else 1


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


def honest(device: str) -> str:
    """`device`, on which float32 convolutions are float32 from now on: torch lets a GPU round their inputs to 10 bits (TF32)."""
    if device.startswith("cuda"):
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return device


def start(device: str) -> None:
    """Join the other processes when torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not td.is_initialized():
        td.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")  # logs add up on the host


def stop() -> None:
    """Leave the group."""
    if td.is_initialized():
        td.destroy_process_group()


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Join the other processes for work that they share out and do each at its own pace, waiting for each other in the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not td.is_initialized():
        td.init_process_group("gloo", timeout=timedelta(days=365))
    try:
        yield
    finally:
        stop()


def all_sum(x: Tensor) -> Tensor:
    """Sum over all processes; `x` itself on one process. No gradient flows through it."""
    if world() == 1:
        return x
    total = x.detach().clone()
    td.all_reduce(total)
    return total


class AllSum(torch.autograd.Function):
    """Sum over all processes whose gradient is summed likewise."""

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
    """The rows of all processes, rank after rank; their numbers of rows may differ."""
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


def barrier() -> None:
    """Wait for the other processes."""
    if world() > 1:
        td.barrier()
