"""One system in a process of its own: builds, warms up, and times steps whenever it is told to. Talks JSON lines."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from speechssl.bench.work import Spec, ours
from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.memory import forget_shapes, keep_freed_memory, resident


def peak_bytes(device: str) -> float:
    """Most memory that this process (or, on a GPU, its tensors) ever held."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else resident("VmHWM") * 2**20


def timed(step: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of one step, and what it gave."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    value = step()
    wait()
    return time.perf_counter() - began, value


def work(system: str, spec: Spec, say: Callable[..., None]) -> None:
    """Build, warm up, and time as many steps as each line of stdin says."""
    if system == "speechssl":
        keep_freed_memory()  # both as the command line does
        forget_shapes()
        step, facts = ours(spec)
    else:
        from speechssl.bench.peers import build

        step, facts = build(system, spec), {}
    if spec.seconds:  # a folder is long enough to be its own warm-up
        step()
    say(facts=facts)
    for line in sys.stdin:
        seconds, values = zip(*(timed(step, spec.device) for _ in range(int(line))), strict=True)
        say(seconds=seconds, batch=values[-1], peak=peak_bytes(spec.device))


def main() -> None:
    """Arguments: the system, and the Spec as JSON. What libraries print goes to stderr: stdout is for the answers."""
    wire = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        print(json.dumps(values), file=wire, flush=True)

    system, given = sys.argv[1], json.loads(sys.argv[2])
    spec = Spec(**{field.name: given[field.name] for field in fields(Spec)})
    torch.set_num_threads(spec.threads)
    if spec.device.startswith("cuda"):
        torch.cuda.set_device(dist.honest(spec.device))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.threads])
    try:
        work(system, spec, say)
    except (InputError, ImportError) as error:
        say(error=str(error))


if __name__ == "__main__":
    main()
