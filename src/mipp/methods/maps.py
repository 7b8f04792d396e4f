"""Scores from the ranks of feature maps.

Sources: Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, arXiv 2002.10179; Sui et al., CHIP:
CHannel Independence-based Pruning for Compact Neural Networks, NeurIPS 2021, arXiv 2110.13981.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mipp.graph.nodes import Site
from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.inputs import by_weight, groups_read, maps_of, readers_of, watch
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings

_ENTRIES = 2**23
"""Of the matrices whose eigenvalues are taken at once."""


@dataclass(frozen=True)
class _OfMaps(OneShot):
    """Scores of nodes from their feature maps, averaged over samples."""

    samples: int = 128
    scope: Scope = "local"
    needs: ClassVar[Needs] = Needs(memory="the feature maps of a batch", stage="trained", widths="equal")

    def __post_init__(self) -> None:
        check_settings(self, samples="[1, inf)")


@dataclass(frozen=True)
class HRank(_OfMaps):
    """Scores a node by the mean rank of its feature map (Lin et al. 2020).

    Attributes:
        samples: About how many calibration samples the ranks are averaged over.
        scope: "local" keeps the same fraction of every group; "global" compares scores across groups.
    """

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        return _average(task, self.samples, _ranks)


@dataclass(frozen=True)
class CHIP(_OfMaps):
    """Scores a node by how much the nuclear norm of all feature maps falls without its own (Sui et al. 2021).

    Attributes:
        samples: About how many calibration samples the falls are averaged over.
        scope: "local" keeps the same fraction of every group; "global" compares scores across groups.
    """

    samples: int = 32

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        return _average(task, self.samples, _independences)


def _ranks(maps: Tensor) -> Tensor:
    """Up to the rounding of the type that the network computes in: in a finer one, rounding noise has full rank."""
    whole = maps if maps.dtype in (torch.float32, torch.float64) else maps.float()
    rtol = max(maps.shape[-2:]) * torch.finfo(maps.dtype).eps
    ranks: Tensor = torch.linalg.matrix_rank(whole, rtol=rtol).sum(2)
    return ranks


def _independences(maps: Tensor) -> Tensor:
    return torch.stack([independence(m.double().flatten(1)) for m in maps])


def independence(maps: Tensor) -> Tensor:
    """Fall of the nuclear norm when one row is zeroed, for every row, shape [nodes].

    Args:
        maps: One row per node, shape [nodes, positions].
    """
    gram = maps @ maps.mT
    at_once = max(1, _ENTRIES // gram.numel())
    lacking = [_nuclear(_without(gram, nodes)) for nodes in torch.arange(len(gram)).split(at_once)]
    return _nuclear(gram) - torch.cat(lacking)


def _without(gram: Tensor, nodes: Tensor) -> Tensor:
    """The matrix once for every one of the nodes, without its row and column."""
    without = gram.repeat(len(nodes), 1, 1)
    each = torch.arange(len(nodes))
    without[each, nodes, :], without[each, :, nodes] = 0, 0
    return without


def _nuclear(gram: Tensor) -> Tensor:
    """Nuclear norm of A from A Aᵀ."""
    singular: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return singular.sum(-1)


def _average(task: Task, samples: int, score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Means over the samples of scores of maps [samples, nodes, maps per node, height, width], summed over readers."""
    total = {name: torch.zeros(group.size, dtype=torch.float64) for name, group in task.graph.groups.items()}
    groups = groups_read(task)

    def visit(site: Site, arguments: Mapping[str, Any]) -> None:
        for group in groups[site.op]:
            total[group.name] += score(maps_of(site, group, arguments)).double().sum(0).cpu()

    seen = watch(task, samples, visit)
    return {g.name: total[g.name] / seen if sites else by_weight(task, g) for g, sites in readers_of(task)}
