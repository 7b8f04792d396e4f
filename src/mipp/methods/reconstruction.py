"""Layer-wise reconstruction: the nodes without which the next layer can still be refitted best.

Sources: Meng et al., OSSCAR: One-Shot Structured Pruning in Vision and Language Models with Combinatorial Optimization,
ICML 2024, arXiv 2403.12983; Kurtic, Frantar & Alistarh, ZipLM: Inference-Aware Structured Pruning of Language Models,
NeurIPS 2023, arXiv 2302.04089; the algebra is the optimal brain surgeon's (Hassibi & Stork, NeurIPS 1992).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mipp.graph.nodes import NodeGroup, Site
from mipp.methods.base import Needs, require_target, select_by
from mipp.methods.common.inputs import by_weight, readers_of, statistics_of
from mipp.plan.budget import Budget
from mipp.plan.elimination import Elimination
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings
from mipp.statistics.observing import SiteStatistics


@dataclass(frozen=True)
class OSSCAR:
    """Removes the node whose loss raises the error of the refitted next layer least, again and again.

    With H = XᵀX of a layer's inputs and W its weights, removing the inputs U and refitting the rest costs
    tr(W_U (H⁻¹_UU)⁻¹ W_Uᵀ); W and H⁻¹ are updated after each removal.

    Attributes:
        ridge: Added to H, relative to its mean diagonal.
    """

    ridge: float = 1e-3
    needs: ClassVar[Needs] = Needs(stage="trained")

    def __post_init__(self) -> None:
        check_settings(self, ridge="(0, inf]")

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Removes nodes at one price per unit of cost until the budget holds."""
        require_target(self, budget)
        statistics = statistics_of(task)
        found = {}
        for group, sites in task.progress(list(readers_of(task)), "selection"):
            layers = [layer for s in sites for layer in self._layers(s, group, statistics[s.op])]
            found[group.name] = _elimination(layers or [self._groups_without_readers(task, group)], group.size)
        return task.plan(select_by(task, found, budget, "cost"), self, budget)

    def _layers(self, site: Site, group: NodeGroup, statistics: SiteStatistics) -> "list[LayerError]":
        blocks = site.features_of(group, statistics.weight)
        weights = site.by_group(statistics.weight)
        seconds = [moments.raw.cpu() for moments in statistics.joint]
        energy = sum(float((w @ xx * w).sum()) for w, xx in zip(weights, seconds, strict=True))
        return [
            LayerError(xx / max(energy, 1e-300), w, blocks, self.ridge) for w, xx in zip(weights, seconds, strict=True)
        ]

    def _groups_without_readers(self, task: Task, group: NodeGroup) -> "LayerError":
        gain = by_weight(task, group)
        weight = (gain / gain.sum().clamp_min(1e-300)).sqrt().diag()
        return LayerError(
            torch.eye(group.size, dtype=torch.float64), weight, torch.arange(group.size)[:, None], self.ridge
        )


class LayerError:
    """The least squared error of a linear layer's outputs as its inputs are removed node by node.

    Args:
        second: Second moments of the inputs, shape [features, features].
        weight: The weights, shape [outputs, features].
        blocks: Features of every node, shape [nodes, width].
        ridge: Added to the second moments, relative to their mean diagonal.
    """

    def __init__(self, second: Tensor, weight: Tensor, blocks: Tensor, ridge: float) -> None:
        scale = float(second.diagonal().mean())
        damped = second + (ridge * scale + 1e-300) * torch.eye(len(second), dtype=torch.float64)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self._products = weight.mT @ weight  # the error depends on the weights through their products alone
        self._blocks, self._count = blocks, len(blocks)
        self._nodes, self._left = torch.arange(len(blocks)), torch.ones(len(blocks), dtype=torch.bool)

    def losses(self) -> Tensor:
        """The error that the removal of each node would add, shape [nodes]; zero for those that are gone."""
        rows, columns = self._blocks[:, :, None], self._blocks[:, None, :]
        ratio = torch.linalg.solve(self._inverse[rows, columns], self._products[rows, columns])
        losses = torch.zeros(self._count, dtype=ratio.dtype)
        losses[self._nodes] = ratio.diagonal(dim1=1, dim2=2).sum(1)
        return losses

    def remove(self, node: int) -> None:
        """Removes a node and refits the rest."""
        place = int(torch.searchsorted(self._nodes, node))
        own = self._blocks[place]
        rows, gone = self._inverse[own], self._products[own]
        share = torch.linalg.solve(rows[:, own], rows).mT  # H⁻¹ of all with own, by H⁻¹ of own
        half = gone - gone[:, own] @ share.mT / 2
        self._products.addmm_(torch.cat([share, half.mT], 1), torch.cat([half, share.mT]), alpha=-1)
        self._inverse.addmm_(share, rows, alpha=-1)
        self._inverse[own, :], self._inverse[:, own] = 0, 0
        self._inverse[own, own] = 1
        self._products[own, :], self._products[:, own] = 0, 0
        self._left[place] = False
        if 0 < self._left.sum() <= len(self._left) / 2:
            self._forget()

    def _forget(self) -> None:
        """Leaves out what is gone: a removal takes time by the square of what is there."""
        stay = self._blocks[self._left]
        features = stay.flatten()
        self._inverse, self._products = (m[features][:, features] for m in (self._inverse, self._products))
        self._blocks, self._nodes = torch.arange(len(features)).view(stay.shape), self._nodes[self._left]
        self._left = self._left[self._left]


def _elimination(layers: list[LayerError], nodes: int) -> Elimination:
    order: list[int] = []
    loss = [0.0]
    for _ in range(nodes):
        losses = torch.stack([layer.losses() for layer in layers]).sum(0)
        losses[order] = torch.inf
        node = int(losses.argmin())
        loss.append(loss[-1] + max(float(losses[node]), 0.0))
        order.append(node)
        for layer in layers:
            layer.remove(node)
    return Elimination(tuple(order), tuple(loss))
