"""The log of a run: log.jsonl, a progress bar, TensorBoard on request."""

import json
from typing import Any

import torch
from torch import Tensor

from speechssl.core import dist, progress
from speechssl.core.errors import InputError
from speechssl.core.progress import Progress
from speechssl.objectives.recipe import TrainConfig
from speechssl.train.folder import RunFolder


class Meter:
    """Sums of (numerator, denominator) per metric; they stay on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, list[Tensor]] = {}
        self.shared: set[str] = set()
        self.seconds = 0.0  # of audio
        self.elapsed = 0.0  # of updates, without validation and saving

    def add(self, sums: dict[str, tuple[Any, Any]], shared: bool = False) -> None:
        """Add numerators and denominators; `shared` ones are the same on every rank already."""
        for name, pair in sums.items():
            values = [torch.as_tensor(value, dtype=torch.float64).detach() for value in pair]
            old = self.sums.get(name)
            self.sums[name] = values if old is None else [a + b for a, b in zip(old, values, strict=True)]
            if shared:
                self.shared.add(name)

    def means(self) -> dict[str, float]:
        """The quotients over all ranks (the one place where the host waits for the device)."""
        means = {}
        for name, (numerator, denominator) in self.sums.items():
            if name not in self.shared:
                numerator, denominator = dist.all_sum(numerator), dist.all_sum(denominator)
            means[name] = float(numerator) / max(float(denominator), 1e-12)
        return means

    def check_finite(self) -> None:
        """InputError when a sum of the window is NaN or infinite: such weights are never saved."""
        for name in self.sums:
            if not bool(torch.isfinite(self.sums[name][0])):
                raise InputError(not_finite(name))

    def state_dict(self) -> dict[str, Any]:
        """The window as plain values."""
        sums = {name: [float(a), float(b)] for name, (a, b) in self.sums.items()}
        return {"sums": sums, "shared": sorted(self.shared), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a window."""
        self.sums = {k: [torch.tensor(v, dtype=torch.float64) for v in pair] for k, pair in state["sums"].items()}
        self.shared, self.seconds = set(state["shared"]), 0.0


def not_finite(name: str) -> str:
    """What to do about NaN."""
    return (
        f"{name} is not finite: the run has diverged; continue from the last checkpoint (or start anew if there is none) with a "
        "lower optim.lr, optim.clip_norm = 1, or train.precision = float32"
    )


class RunLog:
    """Writes rank 0's lines and drives the bar. `bar`: metric -> format shown in the progress line."""

    def __init__(self, run: RunFolder, config: TrainConfig, step: int, bar: dict[str, str]) -> None:
        self.main = dist.rank() == 0
        self.file = open(run.log, "a", encoding="utf-8") if self.main else None
        self.bar = Progress(config.steps, "update", initial=step)
        self.formats = bar
        self.board = open_board(run) if config.tensorboard and self.main else None

    def advance(self) -> None:
        """One update is done."""
        self.bar.update()

    def say(self, text: str) -> None:
        """A line above the bar, from rank 0."""
        if self.main:
            progress.write(text)

    def train_line(self, line: dict[str, Any], meter: Meter) -> dict[str, Any]:
        """Write one window of training; returns the line. InputError when it is not finite."""
        means = meter.means()
        for name, value in means.items():
            if not abs(value) < float("inf"):
                raise InputError(not_finite(name))
        speed = meter.seconds / max(meter.elapsed, 1e-9)
        line = line | {"split": "train"} | means | {"audio_seconds_per_second": speed}
        self.write(line)
        shown = [f"{name} {format(means[name], spec)}" for name, spec in self.formats.items() if name in means]
        self.bar.postfix(f"{' | '.join(shown)} | {speed:.0f} s audio/s")
        return line

    def valid_line(self, line: dict[str, Any], meter: Meter, watched: dict[str, float]) -> dict[str, float]:
        """Write one validation; returns its means. watched: further numbers."""
        means = meter.means() | watched
        self.write(line | {"split": "valid"} | means)
        shown = [f"{name} {format(means[name], spec)}" for name, spec in self.formats.items() if name in means]
        extra = [f"{name} {means[name]:.3f}" for name in ("wer", "cer", "abx", "probe") if name in means]
        self.say(f"validation after {line['step']}: {' | '.join(extra + shown)}")
        return means

    def write(self, line: dict[str, Any]) -> None:
        """One line of log.jsonl, flushed, and the same to TensorBoard."""
        if self.file is None:
            return
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise InputError(f"cannot write {self.file.name} ({error.strerror}); free space, then --resume") from None
        if self.board is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{line['split']}/{name}", value, line["step"])

    def close(self) -> None:
        """End the bar and the files."""
        self.bar.close()
        for sink in (self.file, self.board):
            if sink is not None:
                sink.close()


def open_board(run: RunFolder) -> Any:
    """TensorBoard's writer."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "train.tensorboard needs the package tensorboard: pip install 'speechssl[tensorboard]'"
        ) from None
    return SummaryWriter(str(run.path / "tensorboard"))
