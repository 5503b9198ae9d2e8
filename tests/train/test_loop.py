"""What the loop does around any objective."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry, pack
from speechssl.data.sampler import Position
from speechssl.objectives.protocol import Batch, Objective, Step, Verdict
from speechssl.objectives.recipe import Recipe, TrainConfig
from speechssl.train import loop
from speechssl.train.folder import RunFolder
from speechssl.train.log import Meter
from speechssl.train.loop import Trainer


@dataclass(frozen=True, kw_only=True)
class PullBatch(Batch):
    x_TD: Tensor
    pull_TD: Tensor


class Careful(Objective):
    """An objective that computes in float32 whatever the recipe says."""

    words: str = ""

    @classmethod
    def build(cls, recipe, start, rows):
        return cls(recipe, nn.Linear(64, 64, bias=False))  # type: ignore[arg-type]

    def collate(self, items):
        raise NotImplementedError

    def forward(self, batch: PullBatch, shared: Any) -> Step:
        with torch.autocast("cpu", enabled=False):
            y_TD = self.model(batch.x_TD)
        return Step(loss=(y_TD * batch.pull_TD).sum())

    def verdict(self, line: dict[str, Any]) -> Verdict | None:
        return Verdict(self.words, fatal=False) if self.words else None


def batch() -> PullBatch:
    """One second of noise, and where it shall be pulled to."""
    audio = pack([torch.randn(16_000)], Geometry(kernels=(400,), strides=(320,)))
    return PullBatch(audio=audio, x_TD=torch.randn(100, 64), pull_TD=torch.randn(100, 64))


def trainer(folder, **settings) -> Trainer:
    """A trainer of that objective on endless updates of one micro-batch; nothing is saved."""
    objective = Careful.build(
        Recipe(kind="careful", model=None, objective=None, train=TrainConfig(device="cpu", **settings)), None, []
    )

    def batches(position: Position):
        for index in range(position.index + 1, 1000):
            yield Position(index=index), [batch()]

    made = Trainer(objective, batches, RunFolder(path=folder))
    made.save = lambda best: None
    return made


def test_what_is_computed_in_float32_gets_its_gradient_in_float32(tmp_path):
    own, found = trainer(tmp_path, steps=1, precision="bf16"), []
    own.optimizer.step = lambda: found.append(own.objective.model.weight.grad.clone())
    given = batch()
    own.update([given])
    torch.testing.assert_close(found[0], given.pull_TD.T @ given.x_TD, rtol=1e-5, atol=1e-4)


def test_the_speed_is_that_of_the_updates(tmp_path, monkeypatch):
    """Validating and saving, which happen now and then, are not part of it; loading is."""
    own, speeds, clock = (
        trainer(tmp_path, steps=6, log_every=2, valid_every=1, save_every=1, precision="float32"),
        [],
        [0.0],
    )
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def takes(seconds: float) -> None:
        clock[0] += seconds

    def batches(position: Position):
        for index in range(1, 7):
            takes(0.5)
            yield Position(index=index), [batch()]

    own.batches = batches
    own.validate = lambda log: takes(100)
    own.valid_batches = lambda: iter(())
    own.save = lambda best: takes(100)
    own.judge = lambda line, log: speeds.append(line["audio_seconds_per_second"])
    own.fit()
    assert speeds == [2.0, 2.0, 2.0], "updates of 1 s of audio, each loaded in half a second"
    assert clock == [6 * 200.5]


def test_a_run_that_is_slow_is_warned_of_once(tmp_path, capsys):
    own = trainer(tmp_path, steps=4, log_every=1, precision="float32")
    own.objective.words = "slow, not collapsed"
    own.fit()
    assert capsys.readouterr().err.count("warning: slow, not collapsed") == 1


def test_not_a_number_is_never_saved():
    meter = Meter()
    meter.add({"loss": (float("nan"), 3)})
    with pytest.raises(InputError, match="diverged"):
        meter.check_finite()
