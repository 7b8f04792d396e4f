"""The scales of batch norms.

Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, arXiv 1708.06519.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.slices import weights_by_node
from mipp.plan.task import Task


@dataclass(frozen=True)
class BatchNormScale(OneShot):
    """Scores a node by the absolute scales of its batch norms (network slimming).

    Groups without a batch norm are cut last.

    Attributes:
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(data=False, passes="none", memory="nothing", stage="trained")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        """Scores of all nodes.

        Raises:
            UnsupportedModelError: No group has a batch norm with a scale.
        """
        norms = [m for m in task.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        scales = {id(norm.weight) for norm in norms if norm.weight is not None}
        tensors = {name: p for name, p in task.model.named_parameters() if id(p) in scales}
        found = {name: list(weights_by_node(group, tensors, reads=False)) for name, group in task.graph.groups.items()}
        scores = {name: torch.cat(rows, 1).abs().mean(1) for name, rows in found.items() if rows}
        if not scores:
            raise UnsupportedModelError(
                "BatchNormScale compares the scales of batch norms, and no group of the model has one; choose another "
                "method, such as mipp or l1."
            )
        last = 2 * max(float(s.max()) for s in scores.values()) + 1
        none = {name: torch.full((group.size,), last).double() for name, group in task.graph.groups.items()}
        return {**none, **scores}
