"""What the loop does around any objective."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.core.packed import Geometry, Movable, Packed, pack
from speechssl.objectives.protocol import Step
from speechssl.train.folder import RunFolder
from speechssl.train.loop import Trainer
from speechssl.train.recipe import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Batch(Movable):
    audio: Packed
    x_TD: Tensor
    pull_TD: Tensor
    count: int = 1


class Careful(nn.Module):
    """An objective that computes in float32 whatever the recipe says."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(64, 64, bias=False)

    def start_step(self, step: int) -> None: ...

    def after_step(self) -> None: ...

    def forward(self, batch: Batch) -> Step:
        with torch.autocast("cpu", enabled=False):
            y_TD = self.model(batch.x_TD)
        return Step(loss=(y_TD * batch.pull_TD).sum(), sums={})


def test_what_is_computed_in_float32_gets_its_gradient_in_float32(tmp_path):
    objective = Careful()
    config = TrainConfig(steps=1, precision="bf16", device="cpu")
    run = RunFolder(path=tmp_path)
    trainer = Trainer(objective, lambda _: iter(()), run, OptimConfig(), config, write_model=lambda _: None)
    found = []
    trainer.optimizer.step = lambda: found.append(objective.model.weight.grad.clone())
    audio = pack([torch.randn(400)], Geometry(kernels=(400,), strides=(320,)))
    batch = Batch(audio=audio, x_TD=torch.randn(100, 64), pull_TD=torch.randn(100, 64))
    trainer.update([batch])
    torch.testing.assert_close(found[0], batch.pull_TD.T @ batch.x_TD, rtol=1e-5, atol=1e-4)
