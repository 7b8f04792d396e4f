"""Magnitude of the weights that produce a node.

Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv 1608.08710.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.scores import matrices
from mipp.methods.common.slices import sum_by_node
from mipp.plan.task import Task


@dataclass(frozen=True)
class Magnitude(OneShot):
    """Scores a node by the norm of the weights that produce it, summed over the layers that share it.

    Attributes:
        scope: "local" keeps the same fraction of every group; "global" compares scores across groups.
        normalize: Divide by the mean score of the group (for "global").
    """

    scope: Scope = "local"
    normalize: bool = True
    order: ClassVar[float] = 1
    needs: ClassVar[Needs] = Needs(data=False, passes="none", memory="nothing", stage="trained", widths="equal")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        tensors = matrices(task.model)
        found = {}
        for name, group in task.graph.groups.items():
            score = sum_by_node(group, tensors, lambda weights: weights.norm(p=self.order, dim=1), reads=False)
            relative = self.normalize and self.scope == "global"
            found[name] = score / score.mean().clamp_min(1e-300) if relative else score
        return found


@dataclass(frozen=True)
class L1(Magnitude):
    """Sum of the absolute weights that produce a node (Li et al. 2017)."""

    order: ClassVar[float] = 1


@dataclass(frozen=True)
class L2(Magnitude):
    """Euclidean norm of the weights that produce a node."""

    order: ClassVar[float] = 2
