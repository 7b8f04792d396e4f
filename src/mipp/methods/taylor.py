"""First-order Taylor expansion of the loss.

Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, arXiv 1906.10771.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.gradients import batch_gradients, differentiable, parameters_of
from mipp.methods.common.scores import node_scores
from mipp.plan.task import Task


@dataclass(frozen=True)
class Taylor(OneShot):
    """Keeps the nodes whose removal changes the loss most to first order: (d loss / d gate)², averaged over batches.

    The gate is a factor on the node's activation, behind its batch norm and non-linearity (Molchanov et al. 2019).

    Attributes:
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(
        labels=True, gradients=True, passes="1 backward", memory="one gradient", stage="trained"
    )

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        model = differentiable(task.model)
        weights = parameters_of(model)
        total = {name: torch.zeros(group.size, dtype=torch.float64) for name, group in task.graph.groups.items()}
        for batch, slopes in zip(task.batches, batch_gradients(task, model), strict=True):
            gates = node_scores(task.graph, {n: w * slopes[n] for n, w in weights.items()}, "gate")
            for name, gate in gates.items():
                total[name] += batch.samples * gate.square()
        return total
