"""Random nodes: the control without which no claim about the choice of nodes stands."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mipp.methods.base import Method, Needs, OneShot, Scope, select
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task


@dataclass(frozen=True)
class Random(OneShot):
    """Keeps nodes at random, the same fraction of every group, or as many of each as another method.

    Attributes:
        scope: As for `OneShot`.
        like: The other method; `Budget(widths=...)` gives widths directly.
    """

    scope: Scope = "local"
    like: Method | None = None
    needs: ClassVar[Needs] = Needs(data=False, passes="none", memory="nothing", widths="equal")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        generator = task.generator()
        return {name: torch.rand(group.size, generator=generator) for name, group in task.graph.groups.items()}

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Draws until the budget holds."""
        if self.like is None:
            return super().plan(task, budget)
        made = self.like.plan(task, budget)
        widths = (made[0] if isinstance(made, tuple) else made).widths
        fixed = replace(budget.without(budget.amounts), widths=widths)
        return task.plan(select(task, self.rank(task), fixed, "local"), self, budget)
