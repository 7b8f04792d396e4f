"""Interpolative decomposition: the nodes of which the others are nearest to linear combinations.

Source: Chee, Renz, Damle & De Sa, Model Preserving Compression for Neural Networks, NeurIPS 2022, arXiv 2108.00065.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.linalg import qr
from torch import Tensor

from mipp.graph.nodes import NodeGroup, Site
from mipp.methods.base import Needs, require_target, select_by
from mipp.methods.common.inputs import by_weight, readers_of, statistics_of
from mipp.plan.budget import Budget
from mipp.plan.elimination import Elimination
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.statistics.observing import SiteStatistics


@dataclass(frozen=True)
class Interpolative:
    """Keeps the pivots of a column-pivoted QR of each group's activations; the others are combinations of these.

    The refit of `compensate=True` writes the combinations into the next layer.
    """

    needs: ClassVar[Needs] = Needs(stage="trained")

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Removes the last pivots, by their share of the group's activations, until the budget holds."""
        require_target(self, budget)
        statistics = statistics_of(task)
        found = {}
        for group, sites in readers_of(task):
            grams = [gram_of(site, group, statistics[site.op]) for site in sites] or [by_weight(task, group).diag()]
            found[group.name] = pivots(torch.stack(grams).sum(0))
        return task.plan(select_by(task, found, budget), self, budget)


def gram_of(site: Site, group: NodeGroup, statistics: SiteStatistics) -> Tensor:
    """Second moments of the nodes' activations, summed over their positions, shape [nodes, nodes]."""
    blocks = site.features_of(group, statistics.weight)
    seconds = [moments.raw.cpu() for moments in statistics.joint]
    parts = [second[own][:, own] for second in seconds for own in blocks.T]
    return torch.stack(parts).sum(0)


def pivots(gram: Tensor) -> Elimination:
    """The nodes from the last pivot to the first; the loss is the energy that the kept ones lack, as a share of all."""
    values, vectors = torch.linalg.eigh(gram)
    root = (vectors * values.clamp_min(0).sqrt()).mT  # rootᵀ root = gram
    triangle, order = qr(root.numpy(), mode="r", pivoting=True)
    residual = torch.from_numpy(triangle).square().sum(1).flip(0)  # from row k on: the residual of k pivots
    share = residual / residual.sum().clamp_min(1e-300)
    loss = torch.cat([torch.zeros(1, dtype=torch.float64), share.cumsum(0)])
    return Elimination(tuple(order[::-1].tolist()), tuple(loss.tolist()))
