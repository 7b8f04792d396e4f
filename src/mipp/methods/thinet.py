"""ThiNet: the nodes whose sum the next layer misses least.

Source: Luo, Wu & Lin, ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression, ICCV 2017, arXiv
1707.06342.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mipp.graph.nodes import Site
from mipp.methods.base import Needs, OneShot, Scope, require_target, select
from mipp.methods.common.inputs import by_weight, groups_read, readers_of, watch
from mipp.methods.common.slices import axis_factor
from mipp.modules.copies import full_copy, state_of
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings
from mipp.statistics.unfolding import inputs_of


@dataclass(frozen=True)
class ThiNet(OneShot):
    """Removes, one by one, the nodes whose summed contributions to the next layer's outputs are smallest.

    With x_j the contribution of node j to an output of the next layer, the removed set T grows by the node that
    minimises the mean of (Σ_{j in T} x_j)² over sampled outputs (Luo, Wu & Lin 2017).

    Attributes:
        locations: Sampled outputs of each reader per calibration sample: a random filter at each of so many random
            positions, which the samples share; a linear layer that reads vectors has one position.
        rescale: Multiply the weights that read each kept node by one least-squares factor, as the source does. For
            `compensate=False`: the refit, which takes the place of it, aims at what the rescaled network says.
        scope: "local" keeps the same fraction of every group; "global" compares places in the order of removal, as
            shares of the group.
    """

    locations: int = 10
    rescale: bool = False
    scope: Scope = "local"
    needs: ClassVar[Needs] = Needs(memory="a matrix of nodes x nodes per layer", stage="trained", widths="equal")

    def __post_init__(self) -> None:
        check_settings(self, locations="[1, inf)")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        return _rank(self._grams(task))

    def plan(self, task: Task, budget: Budget) -> PruningPlan | tuple[PruningPlan, dict[str, Tensor]]:  # type: ignore[override]
        """Removes nodes until the budget holds; with `rescale`, returns the rescaled weights with the plan."""
        require_target(self, budget)
        grams = self._grams(task)
        kept = select(task, _rank(grams), budget, self.scope)
        plan = task.plan(kept, self, budget)
        factors = {name: scale_factors(gram, kept[name]) for name, gram in grams.items()}
        return (plan, _rescale(task, factors)) if self.rescale else plan

    def _grams(self, task: Task) -> dict[str, Tensor]:
        """Second moments of the contributions of the nodes of each group, shape [nodes, nodes]."""
        generator = task.generator()
        found = {
            group.name: torch.zeros(group.size, group.size, dtype=torch.float64)
            if sites
            else by_weight(task, group).diag()
            for group, sites in readers_of(task)
        }
        groups = groups_read(task)

        def visit(site: Site, arguments: Mapping[str, Any]) -> None:
            products = _sample_products(site, arguments, self.locations, generator)
            for group in groups[site.op]:
                given = products[:, site.features_of(group, arguments["weight"])].sum(2)
                found[group.name] += given.mT @ given

        watch(task, None, visit)
        return found


def _sample_products(site: Site, arguments: Mapping[str, Any], locations: int, generator: torch.Generator) -> Tensor:
    """Input times weight at sampled positions and for sampled outputs, shape [rows, features]."""
    rows = inputs_of(site, arguments, locations).cpu().double()
    weight = site.by_group(arguments["weight"])
    group = torch.randint(len(rows), (rows.shape[1],), generator=generator)
    output = torch.randint(weight.shape[1], (rows.shape[1],), generator=generator)
    return rows[group, torch.arange(rows.shape[1])] * weight[group, output]


def _rank(grams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: removal_order(gram) / len(gram) for name, gram in grams.items()}


def removal_order(gram: Tensor) -> Tensor:
    """The place of each node in the order of removal, 0 first, shape [nodes].

    Args:
        gram: Second moments of the contributions, shape [nodes, nodes].
    """
    order = torch.zeros(len(gram), dtype=torch.float64)
    gain = gram.diagonal().clone()  # what the sum of squares would grow by
    for step in range(len(gram)):
        node = int(gain.argmin())
        order[node] = step
        gain += 2 * gram[node]
        gain[node] = torch.inf
    return order


def scale_factors(gram: Tensor, kept: tuple[int, ...]) -> Tensor:
    """Least-squares factors of the kept nodes, by which their sum is nearest to that of all, shape [nodes]."""
    factors = torch.ones(len(gram), dtype=torch.float64)
    stay = list(kept)
    own = gram[stay][:, stay]
    ridge = 1e-6 * own.diagonal().mean().nan_to_num() + 1e-300
    target = gram[stay].sum(1) - own.sum(1)  # the penalty is on the distance from 1
    factors[stay] += torch.linalg.solve(own + ridge * torch.eye(len(stay), dtype=torch.float64), target)
    return factors


@torch.no_grad()
def _rescale(task: Task, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model = full_copy(task.model)  # in which a weight under two names is one
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, group in task.graph.groups.items():
        for s in group.slices:
            if s.reads:
                weights[s.tensor] *= axis_factor(s, factors[name], weights[s.tensor])
    return state_of(model)
