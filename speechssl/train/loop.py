"""The one training loop, read from top to bottom: update, log, validate, save, stop.

It knows nothing of any objective but the protocol. An update's loss is the sum over all micro-batches of all ranks divided
by their count, so the cut into micro-batches and processes changes nothing. Each micro-batch's dropout is seeded by (seed,
step, its number in the update): a resumed run repeats the uninterrupted one bit for bit on the CPU.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.data.sampler import Position
from speechssl.objectives.health import Verdict
from speechssl.objectives.protocol import Step
from speechssl.train.folder import RunFolder
from speechssl.train.log import Meter, RunLog
from speechssl.train.optim import build_optimizer, learning_rate
from speechssl.train.recipe import OptimConfig, TrainConfig


@dataclass(kw_only=True)
class State:
    """Where a run stands; all of it is saved."""

    step: int = 0
    position: Position = Position()
    seconds_heard: float = 0.0
    best: float | None = None
    data: str = ""


class Trainer:
    """Trains `objective` on the micro-batches of `batches(position)`.

    validate: () -> {metric: value} or None. score: which of these metrics is best when smallest. write_model: saves the
    model folder. watch: looks at each logged line and may raise InputError to end a hopeless run.
    """

    def __init__(
        self,
        objective: Any,
        batches: Callable[[Position], Iterator],
        run: RunFolder,
        optim: OptimConfig,
        train: TrainConfig,
        *,
        write_model: Callable[[Path], None],
        valid_batches: Callable[[], Iterator] | None = None,
        score: str = "loss",
        watch: Callable[[dict[str, Any]], Verdict | None] | None = None,
        bar: dict[str, str] | None = None,
        fingerprint: str = "",
    ) -> None:
        self.objective, self.batches, self.run = objective, batches, run
        self.optim_config, self.config = optim, train
        self.write_model, self.valid_batches, self.score, self.watch = write_model, valid_batches, score, watch
        self.device = torch.device(train.device)
        head = getattr(objective.model, "lm_head", None)
        self.optimizer = build_optimizer(objective, list(head.parameters()) if head is not None else [], optim)
        self.parallel: nn.Module = objective
        if dist.world() > 1:
            self.parallel = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
        self.state, self.meter = State(data=fingerprint), Meter()
        self.bar = bar or {}
        self.stop_signal: int | None = None

    def fit(self) -> State:
        """Train to the last update, or until a signal asks to stop (the state is then saved)."""
        previous = {number: signal.signal(number, self.ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        log = RunLog(self.run, self.config, self.state.step, self.bar)
        try:
            for after, micros in self.batches(self.state.position):
                if self.state.step >= self.config.steps:
                    break
                self.update(micros)
                self.state.position = after
                self.state.step += 1
                stopping = (
                    self.stop_signal is not None
                )  # read once: what comes while books are kept waits for the next update
                self.keep_books(log, stopping)
                if stopping:
                    break
        finally:
            log.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.state

    def ask_to_stop(self, number: int, _frame: Any) -> None:
        """Finish the update in progress, save, and end; a second signal ends at once."""
        if self.stop_signal is not None:
            raise KeyboardInterrupt
        self.stop_signal = number

    def autocast(self) -> contextlib.AbstractContextManager:
        """bf16 matrix products where the recipe asks for them."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def update(self, micros: list[Any]) -> None:
        """One optimiser step over this rank's micro-batches."""
        step, seed = self.state.step, self.config.seed
        self.objective.train()
        self.objective.start_step(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, self.config.steps, self.optim_config)
        micros = [micro.to(self.device) for micro in micros]
        total = dist.all_sum_float(sum(micro.count for micro in micros))
        if len(micros) > 1:
            with self.autocast():
                self.objective.pool(micros)
        for number, micro in enumerate(micros):
            torch.manual_seed(noise_key("dropout", seed, step, dist.rank() + dist.world() * number))
            last = number + 1 == len(micros)
            with contextlib.nullcontext() if last or dist.world() == 1 else self.parallel.no_sync():  # type: ignore[operator]
                with self.autocast():  # not the backward pass: what was computed in float32 gets its gradient so
                    result: Step = self.parallel(micro)
                (result.loss * (dist.world() / total)).backward()  # DDP averages over ranks; we want the sum
            self.meter.add({"loss": (result.loss.detach(), micro.count)} | result.sums)
        norm = gradient_norm(list(self.objective.parameters()), self.optim_config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.after_step()
        seconds = dist.all_sum_float(sum(sum(micro.audio.samples) for micro in micros)) / 16_000
        self.state.seconds_heard += seconds
        self.meter.add({"grad_norm": (norm, 1)}, shared=True)
        self.meter.seconds += seconds

    def keep_books(self, log: RunLog, stopping: bool) -> None:
        """Log, validate and save when it is time; health is checked before anything is saved."""
        step, config = self.state.step, self.config
        ending = step == config.steps or stopping
        if step % config.log_every == 0 or step == config.steps:
            self.check(log.train_line(self.line(), self.meter), log)
            self.meter = Meter()
        log.advance()
        improved = False
        if self.valid_batches and (step % config.valid_every == 0 or step == config.steps):
            improved = self.validate(log)
        if step % config.save_every == 0 or ending or improved:
            self.meter.check_finite()
            self.save(improved)

    def line(self) -> dict[str, Any]:
        """The fields of a log line that the meter does not hold."""
        lr = self.optimizer.param_groups[0]["lr"]
        return {"step": self.state.step, "lr": lr, "hours_heard": self.state.seconds_heard / 3600}

    def check(self, line: dict[str, Any], log: RunLog) -> None:
        """End the run when a line shows that it learns nothing any more; warn when it is merely slow."""
        verdict = self.watch(line) if self.watch else None
        if verdict is None:
            return
        if verdict.fatal and self.config.stop_on_collapse:
            kept = self.run.latest()
            ending = f"the last good checkpoint is {kept}" if kept else "nothing was saved yet"
            raise InputError(f"{verdict.message} ({ending})")
        log.say(f"warning: {verdict.message}")

    @torch.no_grad()
    def validate(self, log: RunLog) -> bool:
        """Metrics on the validation set; True when the score is the best so far."""
        assert self.valid_batches is not None
        self.objective.eval()
        self.objective.start_step(self.state.step)
        meter = Meter()
        for micro in self.valid_batches():
            with self.autocast():
                result = self.objective(micro.to(self.device))
            meter.add({"loss": (result.loss, micro.count)} | result.sums)
        means = log.valid_line({"step": self.state.step}, meter)
        improved = self.state.best is None or means[self.score] < self.state.best
        if improved:
            self.state.best = means[self.score]
        return improved

    def save(self, best: bool) -> None:
        """Write a checkpoint of everything that the next update depends on."""
        if dist.rank() == 0:
            self.run.save(self.state.step, self.write_model, self.snapshot(), best)
        dist.barrier()

    def snapshot(self) -> dict[str, Any]:
        """The training state as tensors and plain values."""
        state = asdict(self.state)
        own = {name: value for name, value in self.objective.state_dict().items() if not name.startswith("model.")}
        return {
            "state": state,
            "objective": own,
            "optimizer": self.optimizer.state_dict(),
            "meter": self.meter.state_dict(),
        }

    def restore(self, checkpoint: Path, model_state: dict[str, torch.Tensor]) -> None:
        """Continue from a checkpoint: its weights, optimiser, counters and half-filled log window."""
        saved = self.run.load_state(checkpoint)
        self.objective.model.load_state_dict(model_state)
        self.objective.load_state_dict(saved.get("objective", {}), strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.meter.load_state_dict(saved["meter"])
        values = saved["state"]
        if values["data"] != self.state.data:
            raise InputError(
                f"the training manifest is not the one that {checkpoint} was trained on, so its place in the data means "
                "nothing; resume with the same manifest, or start a new run with --init"
            )
        self.state = State(**{**values, "position": Position(**values["position"])})
        if dist.rank() == 0:
            self.run.rewind_log(self.state.step)


def gradient_norm(parameters: list[nn.Parameter], limit: float) -> torch.Tensor:
    """The norm of all gradients together, which are scaled down to `limit` if that is more than 0."""
    if limit:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
