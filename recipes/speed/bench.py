"""How fast: a step of pretraining, fine-tuning or embedding, beside transformers.

    python recipes/speed/bench.py pretrain --against transformers --out pretrain.json

Both run in turn on the same work (A B A B ...), each in a process of its own with the same number of threads. The arithmetic is
counted for the utterances alone, so what is spent on padding shows as a smaller share of the machine's peak.
"""

import argparse
import json
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import rival
import torch
import work
from flops import TASKS, matmul_peak, step_flops
from work import SIZES, Spec, timed

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_file
from speechssl.core.memory import forget_shapes, keep_freed_memory, resident

running = {}  # in the process of a system: its step, and where that runs


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, measure, print the table; a wrong flag ends in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("task", choices=TASKS, help="what is timed")
    add("--size", default="base", choices=tuple(SIZES), help="of the model (default: base)")
    add("--dtype", default="auto", choices=("auto", "bf16", "float32"), help="auto: bf16 where it is fast")
    add("--against", choices=("transformers",), help="another package to time")
    add("--total", type=float, default=60.0, help="seconds of audio in a step (default: 60)")
    add("--range", type=float, nargs=2, default=(1.0, 16.0), metavar=("LOW", "HIGH"), help="utterances (1 16 s)")
    add("--rounds", type=int, default=5, help="steps of each system (default: 5)")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of each system (default: all)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--seed", type=int, default=1, help="of lengths, weights and masks (default: 1)")
    add("--out", type=Path, help="JSON file with every single time")
    args = parser.parse_args(argv)
    try:
        result = bench(checked(args), ["speechssl", args.against] if args.against else ["speechssl"], args.rounds)
    except (InputError, ImportError, BrokenProcessPool) as error:
        parser.exit(2, f"error: {error}\n")
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))


def checked(args: argparse.Namespace) -> Spec:
    """The benchmark that the flags describe; InputError for a wrong one."""
    if args.out is not None:
        output_file(args.out, "bench.json")
    low, high = args.range
    if not 0.1 <= low <= high < math.inf or not 0 < args.total < math.inf:
        raise InputError("--range wants two rising numbers of 0.1 or more, --total a number more than 0")
    if min(args.rounds, args.threads) < 1 or args.seed < 0:
        raise InputError("--rounds and --threads must be at least 1, --seed not negative")
    device, dtype = dist.usable(args.device), args.dtype
    if dtype == "auto":
        dtype = "bf16" if dist.bf16_is_fast(device) else "float32"
    seconds = work.lengths(low, high, args.total, args.seed)
    return Spec(args.task, args.size, dtype, device, args.threads, args.seed, seconds)


def start(name: str, spec: Spec) -> Any:
    """In the process of a system: build it and warm it up; ours returns its masked frames, the rival its batch size.

    Both keep freed memory, a setting of the process that makes either faster. The limit on cached kernels is speechssl's own
    default; it saves memory, not time, so the rival keeps its own.
    """
    keep_freed_memory()
    torch.set_num_threads(spec.threads)
    torch.backends.cudnn.allow_tf32 = False
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.threads])
    if name == "speechssl":
        forget_shapes()
    step, found = work.build(spec) if name == "speechssl" else rival.build(spec)
    step()
    running.update(step=step, device=spec.device)
    return found


def turn() -> tuple[float, float]:
    """In the process of a system: seconds of one step, and the most bytes that the process (or the GPU's tensors) ever held."""
    seconds = timed(**running)
    cuda = running["device"].startswith("cuda")
    return seconds, torch.cuda.max_memory_allocated() if cuda else resident("VmHWM") * 2**20


def bench(spec: Spec, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Measure one task. times: how often a system's step is slower than ours, the median over the rounds."""
    torch.set_num_threads(spec.threads)
    context, peaks, turns = multiprocessing.get_context("spawn"), [], {name: [] for name in names}
    with ExitStack() as stack:
        systems = {name: stack.enter_context(ProcessPoolExecutor(1, context)) for name in names}
        found = {name: system.submit(start, name, spec).result() for name, system in systems.items()}
        for _ in range(rounds):
            peaks.append(matmul_peak(spec.dtype, spec.device))
            for name, system in systems.items():
                turns[name].append(system.submit(turn).result())
    flops = step_flops(spec.config, spec.task, spec.samples, found["speechssl"], len(work.LETTERS))
    ours, rows = [seconds for seconds, _ in turns["speechssl"]], {}
    for name in names:
        times = [seconds for seconds, _ in turns[name]]
        rows[name] = {
            "audio_seconds_per_second": sum(spec.seconds) / median(times),
            "times": median(a / b for a, b in zip(times, ours, strict=True)),
            "share_of_peak": flops / median(times) / max(peaks),
            "peak_memory_bytes": turns[name][-1][1],
            "batch": None if name == "speechssl" else found[name],
            "step_seconds": times,
        }
    return {"spec": asdict(spec), "torch": torch.__version__, "flops": flops, "matmul_peaks": peaks, "systems": rows}


def table(result: dict[str, Any]) -> str:
    """The result for the terminal."""
    spec, total = result["spec"], sum(result["spec"]["seconds"])
    lines = [
        f"{spec['task']} {spec['size']} {spec['dtype']}: {len(spec['seconds'])} utterances, {total:.0f} s; "
        f"{result['flops'] / total / 1e9:.1f} GFLOP per second of audio",
        f"{spec['device']}, {spec['threads']} threads; matrix products: {max(result['matmul_peaks']) / 1e9:.0f} GFLOP/s",
        f"{'':16}{'audio s/s':>10}{'step, s':>9}{'share of peak':>15}{'peak memory':>13}   speechssl is",
    ]
    for name, row in result["systems"].items():
        title = f"{name} x{row['batch']}" if row["batch"] else name
        lines.append(
            f"{title:16}{row['audio_seconds_per_second']:10.1f}{median(row['step_seconds']):9.2f}"
            f"{row['share_of_peak']:14.0%} {row['peak_memory_bytes'] / 2**30:9.1f} GiB   {row['times']:.1f} times as fast"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
