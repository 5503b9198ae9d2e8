"""How fast: a training step, embeddings or transcripts, beside other packages.

    python recipes/speed/bench.py pretrain --against transformers --out pretrain.json

Systems run in turn on the same work (A B A B ...), each in a process of its own with the same number of threads. The arithmetic
is counted for the utterances alone, so what a system spends on padding shows as a smaller share of the machine's peak.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flops import TASKS, matmul_peaks, step_flops
from system import start
from table import summary, table
from work import SIZES, Spec, durations, files

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_file, replacing
from speechssl.core.progress import Progress
from speechssl.sound import audio

CLIPS = Path(__file__).resolve().parents[2] / "data" / "librispeech_test.tsv"
KINDS = {"bf16": torch.bfloat16, "float32": torch.float32}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, measure, print the table; a wrong flag or file ends in one sentence and exit code 2."""
    parser = arguments()
    try:
        print(run(parser.parse_args(argv)))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("task", choices=TASKS, help="what is timed")
    add("--size", default="base", choices=tuple(SIZES), help="of the model (default: base)")
    add("--dtype", default="auto", choices=("auto", *KINDS), help="of matrix products (auto: bf16 where it is fast)")
    add("--against", nargs="*", default=[], choices=("transformers", "torchaudio"), help="other packages to time")
    add("--total", type=float, default=60.0, help="seconds of audio in a step (default: 60)")
    add("--range", type=float, nargs=2, default=(1.0, 16.0), metavar=("LOW", "HIGH"), help="utterances (1 16 s)")
    add("--data", help="manifest that the utterances are cut from (default: clips of the repository)")
    add("--folder", help="embed, transcribe: time a pass over the files of a folder, with decoding")
    add("--rounds", type=int, default=5, help="turns that each system gets (default: 5)")
    add("--steps", type=int, default=1, help="steps in a turn (default: 1)")
    add("--threads", type=int, default=0, help="CPU threads of each system (default: all)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--seed", type=int, default=1, help="of the lengths (default: 1)")
    add("--out", type=Path, help="JSON file with every single time")
    return parser


def run(args: argparse.Namespace) -> str:
    """Check the flags, measure, and return the table."""
    if args.out is not None:
        output_file(args.out, "bench.json")
    if args.folder and args.task not in ("embed", "transcribe"):
        raise InputError(f"--folder goes with embed and transcribe, not with {args.task}")
    if args.task == "pretrain" and "torchaudio" in args.against:
        raise InputError("torchaudio has no pretrain step for wav2vec 2.0; compare with --against transformers")
    low, high = args.range
    if not 0.1 <= low <= high < math.inf or not 0 < args.total < math.inf:
        raise InputError("--range wants two rising numbers of 0.1 or more, --total a number more than 0")
    if min(args.rounds, args.steps) < 1 or args.threads < 0 or args.seed < 0:
        raise InputError("--rounds and --steps must be at least 1, --threads and --seed not negative")
    data = args.folder or args.data or str(CLIPS)
    if not Path(data).exists():
        raise InputError(f"{data} does not exist; name a manifest with --data (default: clips of the repository)")
    device, dtype = dist.usable(args.device), args.dtype
    if dtype == "auto":
        dtype = "bf16" if dist.bf16_is_fast(device) else "float32"
    spec = Spec(
        task=args.task,
        size=args.size,
        dtype=dtype,
        device=device,
        threads=args.threads or torch.get_num_threads(),
        seed=args.seed,
        data=data,
        seconds=() if args.folder else lengths(low, high, args.total, args.seed),
    )
    if args.folder and not files(spec):
        raise InputError(f"{data} holds no audio; looked for files ending in {' '.join(audio.EXTENSIONS)}")
    return table(save(bench(spec, list(dict.fromkeys(args.against)), args.rounds, args.steps), args.out))


def lengths(low: float, high: float, total: float, seed: int) -> tuple[float, ...]:
    """Lengths in seconds, uniform between low and high, that add up to about `total`."""
    rng, found = np.random.default_rng(seed), []
    while sum(found) < total:
        found.append(round(float(rng.uniform(low, high)), 2))
    return tuple(found)


def save(result: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Write `result` to `out` as JSON, and return it."""
    if out is not None:
        with replacing(out) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def bench(spec: Spec, against: Sequence[str], rounds: int, steps: int) -> dict[str, Any]:
    """Measure one task; every single time is in the result."""
    torch.set_num_threads(spec.threads)
    if spec.device.startswith("cuda"):
        torch.cuda.set_device(spec.device)
    seconds = durations(spec)
    names = ("speechssl", *against)
    peaks, systems = [], []
    try:
        with Progress((1 + rounds) * len(names), "turn", f"bench {spec.task}", leave=False) as bar:
            for name in names:
                bar.postfix(f"{name} warms up")
                systems.append(start(name, spec))
                bar.update()
            for _ in range(rounds):
                peaks.append(matmul_peaks(KINDS[spec.dtype], spec.device))
                for system in systems:
                    bar.postfix(system.name)
                    system.run(steps)
                    bar.update()
    finally:
        for system in systems:
            system.process.kill()
    samples = [round(s * audio.SAMPLE_RATE) for s in seconds]
    flops = step_flops(spec.config, spec.task, samples, **systems[0].facts)
    return summary(spec, systems, seconds, flops, peaks)


if __name__ == "__main__":
    main()
