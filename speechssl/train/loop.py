"""The one training loop, read from top to bottom: update, log, validate, save, stop.

It knows nothing of any objective but the hooks of the protocol. An update's loss is the sum over all micro-batches of all
ranks divided by their count, so the cut into micro-batches and processes changes nothing. Each micro-batch's dropout is
seeded by (seed, step, its number in the update): a resumed run repeats the uninterrupted one bit for bit on the CPU.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.data.sampler import Position
from speechssl.models import families
from speechssl.models.protocol import Encoder
from speechssl.objectives.protocol import Batch, Objective, Step
from speechssl.train.folder import RunFolder
from speechssl.train.log import Meter, RunLog
from speechssl.train.optim import build_optimizer, learning_rate

Watch = Callable[[Encoder], dict[str, float]]
SAME = "resume with what it was started with, or start anew"


@dataclass(kw_only=True)
class State:
    """Where a run stands; all of it is saved. seconds_heard: audio in all updates. best: the best score so far. layer: the best
    one at the last validation, if that was measured. data: a hash of the training rows."""

    step: int = 0
    position: Position = Position()
    seconds_heard: float = 0.0
    best: float | None = None
    layer: int | None = None
    data: str = ""


class Trainer:
    """Trains `objective` on the updates that `batches` gives from a position on: (next position, micro-batches of this rank).

    valid_batches: goes once through this rank's share of the validation set. watch: measures the network at each validation, on
    rank 0; `layer` among its numbers, if there, is the best layer. origin: for config.json. data: a hash of the training rows.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Callable[[Position], Iterator],
        run: RunFolder,
        *,
        valid_batches: Callable[[], Iterator] | None = None,
        watch: Watch | None = None,
        origin: dict[str, Any] | None = None,
        data: str = "",
    ) -> None:
        self.objective, self.batches, self.run = objective, batches, run
        self.valid_batches, self.watch, self.origin = valid_batches, watch, origin or {}
        self.config, self.optim = objective.recipe.train, objective.recipe.optim
        self.device = next(objective.parameters()).device
        self.optimizer = build_optimizer(objective, objective.rates(), self.optim)
        self.parallel: nn.Module = objective
        if dist.world() > 1:
            self.parallel = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
        self.state, self.meter = State(data=data), Meter()
        self.warned = False
        self.stop_signal: int | None = None

    def fit(self) -> State:
        """Train to the last update, or until a signal asks to stop (the state is then saved)."""
        previous = {number: signal.signal(number, self.ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        log = RunLog(self.run, self.config, self.state.step, self.objective.bar)
        updates = self.batches(self.state.position)
        stopping = False
        try:
            while self.state.step < self.config.steps and not stopping:
                began = time.perf_counter()
                after, micros = next(updates)
                self.update(micros)
                self.state.position = after
                self.state.step += 1
                self.meter.elapsed += time.perf_counter() - began
                # agreed on, or a rank would wait for another that has left; a later signal waits for the next update
                stopping = dist.any_rank(self.stop_signal is not None)
                self.keep_books(log, stopping)
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

    def update(self, micros: Sequence[Batch]) -> None:
        """One optimiser step over this rank's micro-batches."""
        step = self.state.step
        self.objective.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, self.config.steps, self.optim)
        micros = [micro.to(self.device) for micro in micros]
        total = dist.all_sum_float(sum(micro.count for micro in micros))
        with self.autocast():
            shared = self.objective.before_update(step, micros)
        for number, micro in enumerate(micros):
            self.accumulate(micro, shared, total, number, last=number + 1 == len(micros))
        norm = gradient_norm(list(self.objective.parameters()), self.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.after_update(step, shared)
        seconds = dist.all_sum_float(sum(micro.seconds for micro in micros))
        self.state.seconds_heard += seconds
        self.meter.add({"grad_norm": (norm, 1)}, shared=True)
        self.meter.seconds += seconds

    def accumulate(self, micro: Batch, shared: Any, total: float, number: int, *, last: bool) -> None:
        """Add the gradient of micro-batch `number` of an update; ranks exchange gradients after the `last` one."""
        noise = noise_key("dropout", self.config.seed, self.state.step, dist.rank() + dist.world() * number)
        torch.manual_seed(noise)
        with contextlib.nullcontext() if last or dist.world() == 1 else self.parallel.no_sync():  # type: ignore[operator]
            with self.autocast():  # not the backward pass: what was computed in float32 gets its gradient so
                result: Step = self.parallel(micro, shared)
            (result.loss * (dist.world() / total)).backward()  # DDP averages over ranks; we want the sum
        self.meter.add({"loss": (result.loss.detach(), micro.count)} | result.sums)

    def keep_books(self, log: RunLog, stopping: bool) -> None:
        """Log, validate and save when it is time; the verdict comes before anything is saved."""
        step, config = self.state.step, self.config
        ending = step == config.steps or stopping
        if step % config.log_every == 0 or step == config.steps:
            self.judge(log.train_line(self.line(), self.meter), log)
            self.meter = Meter()
        log.advance()
        improved = False
        if (self.valid_batches or self.watch) and (step % config.valid_every == 0 or step == config.steps):
            improved = self.validate(log)
        if step % config.save_every == 0 or ending or improved:
            self.meter.check_finite()
            self.save(improved)

    def line(self) -> dict[str, Any]:
        """The fields of a log line that the meter does not hold."""
        lr = self.optimizer.param_groups[0]["lr"]
        return {"step": self.state.step, "lr": lr, "hours_heard": self.state.seconds_heard / 3600}

    def judge(self, line: dict[str, Any], log: RunLog) -> None:
        """End the run when a line shows that it learns nothing any more; warn, once, when it is merely slow."""
        verdict = self.objective.verdict(line)
        if verdict is None:
            return
        if verdict.fatal and self.config.stop_on_collapse:
            kept = self.run.latest()
            ending = f"the last good checkpoint is {kept}" if kept else "nothing was saved yet"
            raise InputError(f"{verdict.message} ({ending})")
        if verdict.fatal or not self.warned:
            log.say(f"warning: {verdict.message}")
        self.warned = self.warned or not verdict.fatal

    @torch.no_grad()
    def validate(self, log: RunLog) -> bool:
        """Metrics on the validation set, and what the watch measures; True when the score is the best so far."""
        self.objective.eval()
        meter, watched = Meter(), {}
        for micro in self.valid_batches() if self.valid_batches else ():
            micro = micro.to(self.device)
            with self.autocast():
                result = self.objective(micro, self.objective.before_update(self.state.step, [micro]))
            meter.add({"loss": (result.loss, micro.count)} | result.sums)
        if self.watch is not None:
            watch, model = self.watch, self.objective.model
            watched = dist.from_rank_0(lambda: watch(model))
            self.state.layer = int(watched["layer"]) if "layer" in watched else None
        self.objective.train()  # the next update's clips are collated before it begins
        means, score = (
            log.valid_line({"step": self.state.step}, meter, watched),
            self.config.best or self.objective.score,
        )
        if score not in means:
            if not self.config.best:  # no validation data
                return False
            raise InputError(f"train.best = {score!r} is no metric of the validation; it has {', '.join(means)}")
        improved = self.state.best is None or means[score] < self.state.best
        if improved:
            self.state.best = means[score]
        return improved

    def save(self, best: bool) -> None:
        """Write a checkpoint of everything that the next update depends on."""
        if dist.rank() == 0:
            self.run.save(self.state.step, self.write_model, self.snapshot(), best)
        dist.barrier()

    def write_model(self, folder: Path) -> None:
        """The model folder of a checkpoint."""
        layer = {} if self.state.layer is None else {"layer": self.state.layer}
        families.save(folder, self.objective.model, self.objective.tokenizer, self.origin | layer)

    def snapshot(self) -> dict[str, Any]:
        """The training state as tensors and plain values."""
        own = {name: value for name, value in self.objective.state_dict().items() if not name.startswith("model.")}
        return {
            "state": asdict(self.state),
            "objective": own,
            "optimizer": self.optimizer.state_dict(),
            "meter": self.meter.state_dict(),
        }

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint: its weights, optimiser, counters and half-filled log window. InputError unless it is of
        this model, objective and data."""
        saved = self.run.load_state(checkpoint)
        self.load_objective(checkpoint, saved["objective"])
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

    def load_objective(self, checkpoint: Path, own: dict[str, torch.Tensor]) -> None:
        """Load the model of a checkpoint and `own`, the objective's state outside it."""
        saved, tokenizer = families.read(checkpoint), self.objective.tokenizer
        if tokenizer is not None and (saved.tokenizer is None or saved.tokenizer.vocab != tokenizer.vocab):
            problem = (
                f"its vocabulary, {checkpoint / 'vocab.json'}, differs from that of these transcripts and text.vocab"
            )
            raise InputError(f"{checkpoint} cannot be continued: {problem}; {SAME}")
        state = {f"model.{name}": value for name, value in saved.state.items()} | own
        wanted = self.objective.state_dict()
        odd = [name for name in wanted if name not in state or state[name].shape != wanted[name].shape]
        odd += [name for name in state if name not in wanted]
        if odd:
            problem = f"its weights and the recipe's differ in {', '.join(odd[:3])}{' ...' if odd[3:] else ''}"
            raise InputError(f"{checkpoint} cannot be continued: {problem}; {SAME}")
        self.objective.load_state_dict(state)


def gradient_norm(parameters: list[nn.Parameter], limit: float) -> torch.Tensor:
    """The norm of all gradients together, which are scaled down to `limit` if that is more than 0."""
    if limit:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
