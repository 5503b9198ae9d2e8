"""One system in a process of its own: builds, warms up, and times as many steps as each line of stdin says.

    python recipes/speed/worker.py SYSTEM SPEC

SPEC is the Spec as JSON; every answer is a line of JSON on stdout.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from peers import build
from work import Spec, ours, timed

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.memory import forget_shapes, keep_freed_memory, resident


def peak_bytes(device: str) -> float:
    """The most memory that this process (or, on a GPU, its tensors) ever held."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else resident("VmHWM") * 2**20


def work(system: str, spec: Spec, answer: Callable[..., None]) -> None:
    """Build, warm up, and time steps.

    Every system keeps freed memory: that is a setting of the process which makes any of them faster. The limit on cached kernels
    is speechssl's own default; it saves memory, not time, so the others keep theirs.
    """
    keep_freed_memory()
    if system == "speechssl":
        forget_shapes()
        step, facts = ours(spec)
    else:
        step, facts = build(system, spec), {}
    if spec.seconds:  # a folder is long enough to be its own warm-up
        step()
    answer(facts=facts)
    for line in sys.stdin:
        seconds, values = zip(*(timed(step, spec.device) for _ in range(int(line))), strict=True)
        answer(seconds=seconds, batch=values[-1], peak=peak_bytes(spec.device))


def main() -> None:
    """Libraries print to stdout, so that goes to stderr, and a copy of stdout is for the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    system, spec = sys.argv[1], Spec(**json.loads(sys.argv[2]))
    torch.set_num_threads(spec.threads)
    if spec.device.startswith("cuda"):
        torch.cuda.set_device(spec.device)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.threads])
    try:
        with dist.exact_convolutions():
            work(system, spec, answer)
    except (InputError, ImportError) as error:
        answer(error=str(error))


if __name__ == "__main__":
    main()
