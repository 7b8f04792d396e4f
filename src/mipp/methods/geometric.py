"""Distance to the geometric median.

Source: He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019,
arXiv 1811.00250.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.scores import matrices
from mipp.methods.common.slices import weights_by_node
from mipp.plan.task import Task


@dataclass(frozen=True)
class FPGM(OneShot):
    """Removes the nodes that the others can best stand in for: least summed distance to their weights (FPGM).

    Attributes:
        scope: "local" keeps the same fraction of every group; "global" compares scores across groups.
    """

    scope: Scope = "local"
    needs: ClassVar[Needs] = Needs(data=False, passes="none", memory="nothing", stage="trained", widths="equal")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        tensors = matrices(task.model)
        found = {}
        for name, group in task.graph.groups.items():
            rows = list(weights_by_node(group, tensors, reads=False))
            weights = torch.cat(rows, 1) if rows else torch.zeros(group.size, 1, dtype=torch.float64)
            found[name] = torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        return found
