"""Gradient signal preservation, and the squared gradient in rounds.

Sources: Wang, Zhang & Grosse, Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020, arXiv
2002.07376; de Jorge et al., Progressive Skeletonization, ICLR 2021, arXiv 2006.09081 ("GRASP-It").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.gradients import differentiable, gradient, hessian_product, parameters_of
from mipp.methods.common.scores import InRounds, Structure, node_scores
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings


@dataclass(frozen=True)
class GraSP(OneShot):
    """Keeps the weights that carry the gradient norm: weight x (Hessian x gradient) (Wang et al. 2020).

    Removing a weight changes the squared norm of the gradient by about -2 weight x (Hg), so those with the largest
    product stay. The sign is lost in "l1" and "l2"; "gate" keeps it.

    Attributes:
        structure: How scores of weights become scores of nodes, "l1", "l2" or "gate".
        temperature: The outputs are divided by it.
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    structure: Structure = "l1"
    temperature: float = 200.0
    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(
        labels=True,
        gradients=True,
        passes="3 backward",
        memory="the graph of one batch's gradient",
        stage="initialisation",
    )

    def __post_init__(self) -> None:
        check_settings(self, temperature="(0, inf]")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        model = differentiable(task.model, batch_statistics=True)
        slopes = gradient(task, model, self.temperature)
        curved = hessian_product(task, model, slopes, self.temperature)
        products = {name: weight * curved[name] for name, weight in parameters_of(model).items()}
        return node_scores(task.graph, products, self.structure)


@dataclass(frozen=True)
class IterGraSP(InRounds):
    """Keeps the weights with the largest squared gradient, taken anew each round (de Jorge et al. 2021).

    Attributes:
        rounds: Number of rounds; the fraction kept falls geometrically.
        structure: As for `GraSP`.
    """

    rounds: int = 10
    structure: Structure = "l1"
    needs: ClassVar[Needs] = Needs(
        labels=True, gradients=True, passes="10 backward", memory="one gradient", stage="initialisation"
    )

    def scores(self, task: Task, model: nn.Module) -> Mapping[str, Tensor]:
        slopes = gradient(task, differentiable(model, batch_statistics=True))
        squares = {name: slope.square() for name, slope in slopes.items()}
        return node_scores(task.graph, squares, self.structure)
