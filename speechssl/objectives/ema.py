"""Teachers that follow the network which learns."""

import torch
from torch import nn


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the parameters of `teacher` towards those of `student`; decay: the share of the teacher that stays."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - decay)
