"""Connection sensitivity, at once and in rounds.

Sources: Lee, Ajanthan & Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019, arXiv
1810.02340; de Jorge et al., Progressive Skeletonization: Trimming more fat from a network at initialization, ICLR 2021,
arXiv 2006.09081 (iterative SNIP).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.gradients import differentiable, gradient, parameters_of
from mipp.methods.common.scores import InRounds, Structure, node_scores
from mipp.plan.task import Task


@dataclass(frozen=True)
class SNIP(OneShot):
    """Keeps the nodes whose weights the loss is most sensitive to: |weight x gradient| (Lee et al. 2019).

    Attributes:
        structure: How scores of weights become scores of nodes, "l1", "l2" or "gate".
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    structure: Structure = "l1"
    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(
        labels=True, gradients=True, passes="1 backward", memory="one gradient", stage="initialisation"
    )

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        return _sensitivity(task, task.model, self.structure)


@dataclass(frozen=True)
class IterSNIP(InRounds):
    """Takes SNIP's scores anew after each round of removals (de Jorge et al. 2021).

    Attributes:
        rounds: Number of rounds; the fraction kept falls geometrically.
        structure: As for `SNIP`.
    """

    rounds: int = 10
    structure: Structure = "l1"
    needs: ClassVar[Needs] = Needs(
        labels=True, gradients=True, passes="10 backward", memory="one gradient", stage="initialisation"
    )

    def scores(self, task: Task, model: nn.Module) -> Mapping[str, Tensor]:
        return _sensitivity(task, model, self.structure)


def _sensitivity(task: Task, model: nn.Module, structure: Structure) -> dict[str, Tensor]:
    model = differentiable(model, batch_statistics=True)
    slopes = gradient(task, model)
    products = {name: weight * slopes[name] for name, weight in parameters_of(model).items()}
    return {name: scores.abs() for name, scores in node_scores(task.graph, products, structure).items()}
