"""Batch norm over several processes keeps the running statistics that torch's keeps on one."""

import pytest
import torch

from speechssl.core import dist
from speechssl.models.kernels.norm import BatchNorm


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_those_of_torch(momentum, monkeypatch):
    """momentum = None: the average of all batches so far."""
    monkeypatch.setattr(dist, "all_sum_float", float)  # two processes, of which the other has no clips
    monkeypatch.setattr(dist, "all_sum_grad", lambda x: x)
    monkeypatch.setattr(dist, "world", lambda: 2)
    mine, expected = BatchNorm(3, momentum=momentum), torch.nn.BatchNorm1d(3, momentum=momentum)
    for step in range(3):
        x_BC = torch.randn(8, 3) * (step + 1)
        torch.testing.assert_close(mine(x_BC), expected(x_BC))
    for value, reference in zip(mine.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(value, reference)
