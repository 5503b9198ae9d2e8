"""Runs systems in turn on the same work (A B A B ..., a process each, threads pinned) and prints what came out.

The count of the arithmetic is that of the utterances alone: what a system spends on padding shows as a smaller share of the
machine's peak.
"""

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from speechssl.bench.flops import matmul_peaks, step_flops
from speechssl.bench.work import Spec, files
from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_file, replacing
from speechssl.sound import audio

KINDS = {"bf16": torch.bfloat16, "float32": torch.float32}


@dataclass(kw_only=True)
class System:
    """A process that runs one system's steps. seconds: of every step. peak: bytes. batch: the size it found fastest."""

    name: str
    process: Any
    errors: Any
    facts: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0

    def answer(self) -> dict[str, Any]:
        """The next line of the process; InputError when it cannot do the task."""
        line = self.process.stdout.readline()
        found = json.loads(line) if line else {"error": self.complaint()}
        if "error" in found:
            raise InputError(f"{self.name}: {found['error']}")
        return found

    def complaint(self) -> str:
        """The last thing that a process without an answer said."""
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        return said[-1] if said else "its process was killed; it may need more memory than there is"

    def run(self, steps: int) -> None:
        """Time some steps."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        found = self.answer()
        self.seconds += found["seconds"]
        self.peak, self.batch = max(self.peak, found["peak"]), found["batch"]


def lengths(low: float, high: float, total: float, seed: int) -> tuple[float, ...]:
    """Lengths in seconds, uniform between low and high, that add up to about `total`."""
    rng, found = np.random.default_rng(seed), []
    while sum(found) < total:
        found.append(round(float(rng.uniform(low, high)), 2))
    return tuple(found)


def start(name: str, spec: Spec) -> System:
    """A system in a process of its own, built and warmed up."""
    command = [sys.executable, "-m", "speechssl.bench.worker", name, json.dumps(spec.json())]
    errors = tempfile.TemporaryFile("w+")
    environment = os.environ | {"OMP_NUM_THREADS": str(spec.threads)}
    process = subprocess.Popen(
        command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
    )
    system = System(name=name, process=process, errors=errors)
    system.facts = system.answer()["facts"]
    return system


def bench(spec: Spec, against: Sequence[str], rounds: int, steps: int, out: Path | None) -> str:
    """The table of one task; what lies in `out` afterwards is the same as JSON, every single time included."""
    torch.set_num_threads(spec.threads)
    if spec.device.startswith("cuda"):
        torch.cuda.set_device(spec.device)
    seconds = list(spec.seconds) or [audio.info(path).duration for path in files(spec)]
    peaks, systems = [], []
    try:
        with tqdm(total=1 + len(against) + rounds * (1 + len(against)), desc=f"bench {spec.task}", leave=False) as bar:
            for name in ("speechssl", *against):
                bar.set_postfix_str(f"{name} warms up")
                systems.append(start(name, spec))
                bar.update()
            for _ in range(rounds):
                peaks.append(matmul_peaks(KINDS[spec.dtype], spec.device))
                for system in systems:
                    bar.set_postfix_str(system.name)
                    system.run(steps)
                    bar.update()
    finally:
        for system in systems:
            system.process.kill()
    flops = step_flops(spec.config, spec.task, [round(s * audio.SAMPLE_RATE) for s in seconds], **systems[0].facts)
    return table(keep(summary(spec, systems, seconds, flops, peaks), out))


def keep(result: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """The result itself, written to `out` as JSON."""
    if out is not None:
        with replacing(out) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def summary(spec: Spec, systems: Sequence[System], seconds: Sequence[float], flops: float, peaks: list) -> dict:
    """Everything that was measured, as plain values."""
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
    return {"spec": spec.json(), **facts, "machine": machine, "systems": rows}


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def graphics(device: str) -> str | None:
    """The GPU's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def table(result: dict[str, Any]) -> str:
    """A few lines for the terminal."""
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


def data_table(result: dict[str, Any]) -> str:
    """The data path in a few lines for the terminal."""
    rates, costs = result.values()
    lines = ["seconds of audio per second of one core, decoded, cropped, resampled, packed", ""]
    lines.append(f"{'':24}" + "".join(f"{case:>18}" for case in rates))
    for form in next(iter(rates.values())):
        lines.append(f"{form:24}" + "".join(f"{rates[case][form]:18,}" for case in rates))
    lines += [
        "",
        f"a manifest of {costs['rows']:,} rows, {costs['file MiB']} MiB on the disk: seconds of one core, and MiB",
    ]
    lines += [f"{name:36}{value:12}" for name, value in costs.items() if name not in ("rows", "file MiB")]
    return "\n".join(lines)


def run(args: Any) -> str:
    """What the command line asks for."""
    if args.out is not None:
        output_file(args.out, "bench.json")
    if args.task == "data":
        from speechssl.bench.data import measure

        return data_table(keep(measure(), args.out))
    if args.folder and args.task not in ("embed", "transcribe"):
        raise InputError(f"--folder goes with embed and transcribe, not with {args.task}")
    low, high = args.range
    if not 0.1 <= low <= high < math.inf or not 0 < args.total < math.inf:
        raise InputError("--range wants two rising numbers of 0.1 or more, --total a number more than 0")
    if min(args.rounds, args.steps) < 1 or args.threads < 0 or args.seed < 0:
        raise InputError("--rounds and --steps must be at least 1, --threads and --seed not negative")
    clips = Path(__file__).parents[2] / "data" / "librispeech_test.tsv"
    data = args.folder or args.data or str(clips)
    if not Path(data).exists():
        raise InputError(f"{data} does not exist; name a manifest with --data (the repository brings clips of its own)")
    spec = Spec(
        task=args.task,
        size=args.size,
        dtype=args.dtype,
        device=dist.usable(args.device),
        threads=args.threads or torch.get_num_threads(),
        seed=args.seed,
        data=data,
        seconds=() if args.folder else lengths(low, high, args.total, args.seed),
    )
    if args.folder and not files(spec):
        raise InputError(f"{data} holds no audio; looked for files ending in {' '.join(audio.EXTENSIONS)}")
    return bench(spec, list(dict.fromkeys(args.against)), args.rounds, args.steps, args.out)
