"""Iterative magnitude pruning with rewinding.

Sources: Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019, arXiv 1803.03635; Frankle et al., Linear Mode
Connectivity and the Lottery Ticket Hypothesis, ICML 2020, arXiv 1912.05671 (rewinding).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mipp.methods.base import Needs, require_target
from mipp.methods.common.scores import fraction_kept, matrices, select_in_rounds, silence
from mipp.methods.common.slices import sum_by_node
from mipp.methods.common.training import train
from mipp.modules.copies import full_copy, state_of
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings


@dataclass(frozen=True)
class IMP:
    """Trains, removes the smallest nodes, rewinds the rest to early in training, and so on (Frankle et al. 2020).

    Weights come back rewound: they are to be trained afterwards.

    Attributes:
        per_round: Fraction of what is left that each round removes.
        rewind: Fraction of the training after which the weights to rewind to are saved.
    """

    per_round: float = 0.2
    rewind: float = 0.02
    needs: ClassVar[Needs] = Needs(
        data=False,
        gradients=True,
        training=True,
        passes="1 training per round",
        memory="the optimiser's",
        reweights=True,
    )

    def __post_init__(self) -> None:
        check_settings(self, per_round="(0, 1)", rewind="(0, 1)")

    def plan(self, task: Task, budget: Budget) -> tuple[PruningPlan, dict[str, Tensor]]:
        """Prunes in rounds until the budget holds; returns the early weights of the whole network with the plan."""
        require_target(self, budget)
        early = full_copy(task.model)
        train(task, early, self.rewind)

        def rank(_: nn.Module, kept: Mapping[str, Sequence[int]]) -> Mapping[str, Tensor]:
            model = full_copy(early)
            silence(model, task.graph, kept)
            train(task, model, 1 - self.rewind, lambda: silence(model, task.graph, kept))
            return _norms(task, model, kept)

        rounds = math.ceil(math.log(fraction_kept(budget, task.cost)) / math.log(1 - self.per_round) - 1e-9)
        kept = select_in_rounds(self, task, budget, max(rounds, 1), rank)
        return task.plan(kept, self, budget), state_of(early)


def _norms(task: Task, model: nn.Module, kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Norms of the weights that produce each node, relative to the mean of the nodes that their group keeps."""
    tensors = matrices(model)
    found = {}
    for name, group in task.graph.groups.items():
        total = sum_by_node(group, tensors, lambda weights: weights.norm(dim=1), reads=False)
        found[name] = total / total[list(kept[name])].mean().clamp_min(1e-300) if kept[name] else total
    return found
