"""Mutual information preserving pruning in closed form.

Source: Westphal, Hailes & Musolesi, Mutual Information Preserving Neural Network Pruning, arXiv 2411.00147.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipp.activations import SiteStatistics, site_statistics
from mipp.errors import MippError, MissingRequirementError
from mipp.graph.groups import NodeGroup, Site
from mipp.information import GaussianInformation, IndependentInformation, SumInformation, apart
from mipp.methods.base import Task
from mipp.plan import Budget, PruningPlan, allocate
from mipp.selection import Elimination, Order, backward_elimination, terc

NOISE = 1.0
Statistics = Mapping[int, SiteStatistics]


@dataclass(frozen=True)
class MIPP:
    """Removes the nodes whose removal costs the layers that read them the least information.

    Groups are taken from the outputs to the inputs. The target of a group is what the weights that read it write: the
    nodes *kept* downstream, and where those write to a residual stream, the stream (its noise floor is the stream's).

    Attributes:
        estimator: "gaussian", the closed form.
        order: "greedy" re-scores after each removal; "mi" goes through the nodes once, least informative first.
        confidence: Without a budget: keep a node if it is at least this sure that it carries information.
        noise: Variance of the noise on the target, relative to the target's own variance.
        positions: At most this many positions of each sample enter the statistics of one layer.
    """

    estimator: str = "gaussian"
    order: Order = "greedy"
    confidence: float | None = None
    noise: float = NOISE
    positions: int = 64

    def __post_init__(self) -> None:
        if self.estimator != "gaussian" or self.order not in ("greedy", "mi"):
            raise MippError(
                f"MIPP(estimator={self.estimator!r}, order={self.order!r}): expected the estimator 'gaussian' and the "
                "order 'greedy' or 'mi'."
            )
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise MippError(f"MIPP(confidence={self.confidence}): expected a number in [0.5, 1).")
        if not self.noise > 0 or self.positions < 1:
            raise MippError(f"MIPP(noise={self.noise}, positions={self.positions}): expected both to be positive.")

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Chooses the nodes to keep.

        Raises:
            MissingRequirementError: Neither a budget nor a confidence says how much to remove.
        """
        if not budget.has_target and self.confidence is None:
            raise MissingRequirementError(
                "MIPP needs to know how much to remove: pass budget=mipp.Budget(macs=0.5) or another target, or "
                "mipp.methods.MIPP(confidence=0.95) to let the test decide."
            )
        batches, limit = task.progress(task.batches, "statistics"), task.memory.statistics
        statistics = site_statistics(task.model, task.graph, batches, self.positions, limit, task.notes)
        if not budget.has_target:
            return self._by_test(task, statistics, budget)
        free = [g for g in reversed(list(task.graph.groups.values())) if g.name not in budget.widths]
        first = {g.name: self._elimination(task, statistics, g, {}) for g in task.progress(free, "allocation")}
        widths = allocate(first, task.cost, budget, latency=task.latency).widths
        return self._by_width(task, statistics, budget, widths, first)

    def _by_width(
        self,
        task: Task,
        statistics: Statistics,
        budget: Budget,
        widths: Mapping[str, int],
        known: Mapping[str, Elimination],
    ) -> PruningPlan:
        """Chooses the nodes of each group for given widths, from the outputs to the inputs."""
        kept: dict[str, tuple[int, ...]] = {}
        information: dict[str, tuple[float, float]] = {}
        for group in task.progress(list(task.graph.groups.values())[::-1], "selection"):
            elimination = known.get(group.name)
            if elimination is None or self._target_shrank(task, group, kept):
                elimination = self._elimination(task, statistics, group, kept)
            kept[group.name] = elimination.kept(widths[group.name])
            information[group.name] = (elimination.loss[group.size - widths[group.name]], elimination.loss[-1])
        return replace(task.plan(kept, self, budget), information=information)

    def _by_test(self, task: Task, statistics: Statistics, budget: Budget) -> PruningPlan:
        kept: dict[str, tuple[int, ...]] = {}
        assert self.confidence is not None
        for group in reversed(list(task.graph.groups.values())):
            information = self._information(task, statistics, group, kept)
            chosen = terc(information, self.confidence, self.order)
            least = min(budget.min_keep, group.size)
            if len(chosen) < least:
                chosen = self._elimination(task, statistics, group, kept).kept(least)
            kept[group.name] = chosen
        return task.plan(kept, self, budget)

    def _elimination(
        self, task: Task, statistics: Statistics, group: NodeGroup, kept: Mapping[str, tuple[int, ...]]
    ) -> Elimination:
        return backward_elimination(self._information(task, statistics, group, kept), self.order)

    def _target_shrank(self, task: Task, group: NodeGroup, kept: Mapping[str, tuple[int, ...]]) -> bool:
        alive = task.graph.keep_mask({n: nodes or (0,) for n, nodes in kept.items()})
        writes = np.concatenate([site.writes for site in task.graph.readers(group)])
        return not alive[writes[writes >= 0]].all()

    def _information(
        self, task: Task, statistics: Statistics, group: NodeGroup, kept: Mapping[str, tuple[int, ...]]
    ) -> SumInformation:
        alive = task.graph.keep_mask({n: nodes or (0,) for n, nodes in kept.items() if n != group.name})
        parts: list[GaussianInformation | IndependentInformation] = []
        for site in task.graph.readers(group):
            parts.extend(_about(site, group, statistics[site.op], alive, self.noise))
        return SumInformation(parts)


def _about(
    site: Site, group: NodeGroup, statistics: SiteStatistics, alive: NDArray[np.bool_], noise: float
) -> list[GaussianInformation | IndependentInformation]:
    """What a group carries to the kept outputs of one site; one part per convolution group, or more in a wide layer."""
    blocks = _features(site, group, statistics.weight)
    rows = torch.from_numpy(np.where(site.writes >= 0, alive[site.writes], True)).reshape(site.groups, -1)
    weights = statistics.weight.cpu().flatten(1).double().unflatten(0, (site.groups, -1))
    floors = None if statistics.floor is None else statistics.floor.cpu().unflatten(0, (site.groups, -1))
    parts: list[GaussianInformation | IndependentInformation] = []
    for index, weight in enumerate(weights):
        weight, floor = weight[rows[index]], None if floors is None else noise * floors[index][rows[index]]
        if statistics.layout != "unfolded":
            parts += apart(weight, statistics.parts, statistics.of_group(index), blocks, floor, noise)
            continue
        moments = statistics.inputs[index]
        xx = moments.covariance.cpu()
        xy = xx @ weight.mT
        yy = weight @ xy
        own = noise * yy.diagonal() if floor is None else floor
        parts.append(GaussianInformation(xx, xy, yy, blocks, own, moments.count))
    return parts


def _features(site: Site, group: NodeGroup, weight: Tensor) -> Tensor:
    """Features of every node among the inputs of a site, in the order of its flattened weight; [nodes, width]."""
    nodes = site.reads - group.first_node
    positions = np.flatnonzero((nodes >= 0) & (nodes < group.size))
    by_node = positions[np.argsort(nodes[positions], kind="stable")].reshape(group.size, -1)
    kernel = weight[0, 0].numel() if weight.ndim > 2 else 1
    return torch.from_numpy((by_node[:, :, None] * kernel + np.arange(kernel)).reshape(group.size, -1))
