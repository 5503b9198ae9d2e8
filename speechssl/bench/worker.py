"""One system in a process of its own: builds, warms up, and times steps whenever it is told to. Talks JSON lines."""

import json
import os
import resource
import sys
import time
from dataclasses import fields
from typing import Any

import torch

from speechssl.bench.work import Spec, ours
from speechssl.errors import InputError
from speechssl.memory import forget_shapes, keep_freed_memory


def peak_bytes(device: str) -> int:
    """Most memory that this process (or, on a GPU, its tensors) ever held."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(step: Any, device: str) -> float:
    """Seconds of one step."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def say(**values: Any) -> None:
    """One line to the parent."""
    print(json.dumps(values), flush=True)


def main() -> None:
    """Arguments: the system, and the Spec as JSON. Every line on stdin is a number of steps to time."""
    system, given = sys.argv[1], json.loads(sys.argv[2])
    spec = Spec(**{field.name: given[field.name] for field in fields(Spec)})
    torch.set_num_threads(spec.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.threads])
    try:
        if system == "speechssl":
            keep_freed_memory()  # both as the command line does
            forget_shapes()
            step, facts = ours(spec)
        else:
            from speechssl.bench.peers import build

            step, facts = build(system, spec), {}
        batch = step() if spec.seconds else None  # a folder is long enough to be its own warm-up
        say(facts=facts, batch=batch)
    except (InputError, ImportError) as error:
        say(error=str(error))
        return
    for line in sys.stdin:
        say(seconds=[timed(step, spec.device) for _ in range(int(line))], peak=peak_bytes(spec.device))


if __name__ == "__main__":
    main()
