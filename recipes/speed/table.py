"""The results of a benchmark as plain values, and as a few lines for the terminal."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from system import System
from work import Spec


def summary(spec: Spec, systems: Sequence[System], seconds: Sequence[float], flops: float, peaks: list) -> dict:
    """Everything that was measured, as plain values.

    seconds: of each utterance. flops: of a step. peaks: by way of multiplying, operations per second in each round. times: how
    often a system's step is slower than ours, the median over the rounds.
    """
    total, rows = sum(seconds), {}
    reached = {way: max(peak[way] for peak in peaks) for way in peaks[0]}
    for system in systems:
        middle = median(system.seconds)
        rows[system.name] = {
            "audio_seconds_per_second": total / middle,
            "times": median(a / b for a, b in zip(system.seconds, systems[0].seconds, strict=True)),
            "share_of_peak": flops / middle / max(reached.values()),
            "peak_memory_bytes": system.peak,
            "batch": system.batch,
            "step_seconds": system.seconds,
        }
    facts = {"flops": flops, "audio_seconds": total, "utterances": len(seconds), "matmul_peaks": reached}
    machine = {"torch": torch.__version__, "cpu": processor(), "gpu": graphics(spec.device)}
    return {"spec": asdict(spec), **facts, "machine": machine, "systems": rows}


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def graphics(device: str) -> str | None:
    """The GPU's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def table(result: dict[str, Any]) -> str:
    """The result of a step's benchmark for the terminal."""
    spec, lengths_R = result["spec"], result["spec"]["seconds"]
    shape = (
        f"of {min(lengths_R):.1f} ... {max(lengths_R):.1f} s" if lengths_R else f"in {spec['data']}, decoding included"
    )
    each = result["flops"] / result["audio_seconds"] / 1e9
    place = result["machine"]["gpu"] or f"{result['machine']['cpu']}, {spec['threads']} threads"
    lines = [
        f"{spec['task']} {spec['size']} {spec['dtype']}: {result['utterances']} utterances {shape}, "
        f"{result['audio_seconds']:.0f} s in all; {each:.1f} GFLOP per second of audio",
        f"{place}; matrix products: "
        + ", ".join(f"{way} {peak / 1e9:.0f} GFLOP/s" for way, peak in result["matmul_peaks"].items()),
        "",
        f"{'':14}{'audio s/s':>10}{'step, s':>9}{'share of peak':>15}{'peak memory':>13}   speechssl is",
    ]
    for name, row in result["systems"].items():
        title = name if row["batch"] is None else f"{name} x{row['batch']}"
        factor = "" if name == "speechssl" else f"   {row['times']:.1f} times as fast"
        lines.append(
            f"{title:14}{row['audio_seconds_per_second']:10.1f}{median(row['step_seconds']):9.2f}"
            f"{row['share_of_peak']:14.0%} {row['peak_memory_bytes'] / 2**30:9.1f} GiB{factor}"
        )
    return "\n".join(lines)
