"""Layer-adaptive magnitude.

Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, arXiv 2010.07611.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.scores import matrices
from mipp.methods.common.slices import sum_by_node
from mipp.plan.task import Task


@dataclass(frozen=True)
class LAMP(OneShot):
    """Scores a node by its squared weights, relative to those of the nodes of its group that are no smaller (LAMP).

    Attributes:
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(data=False, passes="none", memory="nothing", stage="trained")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        tensors = matrices(task.model)
        found = {}
        for name, group in task.graph.groups.items():
            found[name] = relative(sum_by_node(group, tensors, lambda w: w.square().sum(1), reads=False))
        return found


def relative(squares: Tensor) -> Tensor:
    """Every value over the sum of itself and of all larger ones, shape [nodes]; of equal ones the first is smaller."""
    order = torch.argsort(squares, stable=True)
    ascending = squares[order]
    at_least = ascending.flip(0).cumsum(0).flip(0)
    found = torch.empty_like(squares)
    found[order] = ascending / at_least.clamp_min(1e-300)
    return found
