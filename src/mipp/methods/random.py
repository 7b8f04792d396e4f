"""Random nodes: the control without which no claim about the choice of nodes stands."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mipp.methods.base import OneShot, Task


@dataclass(frozen=True)
class Random(OneShot):
    """Keeps nodes at random, the same fraction of every group (or at given widths, with `Budget(widths=...)`)."""

    scope: str = "local"

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        generator = task.generator()
        return {name: torch.rand(group.size, generator=generator) for name, group in task.graph.groups.items()}
