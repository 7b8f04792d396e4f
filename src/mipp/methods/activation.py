"""Scores from the size and the variance of activations.

Sources: Sun et al., A Simple and Effective Pruning Approach for Large Language Models (Wanda), ICLR 2024, arXiv
2306.11695; An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models (FLAP), AAAI 2024, arXiv
2312.11983.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mipp.graph.nodes import NodeGroup, Site
from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.inputs import Seen, by_weight, observe_readers, readers_of
from mipp.plan.task import Task
from mipp.statistics.moments import Variances

PerFeature = Callable[[Variances, Tensor], Tensor]


@dataclass(frozen=True)
class Wanda(OneShot):
    """Scores a node by |weight| x root mean square of the input, summed over the weights that read it (Wanda).

    Attributes:
        scope: "local" keeps the same fraction of every group; "global" compares scores across groups.
    """

    scope: Scope = "local"
    needs: ClassVar[Needs] = Needs(memory="a mean and a variance per input", stage="trained", widths="equal")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        return _scores(task, lambda v, w: w.abs().sum(0) * (v.variance + v.mean.square()).sqrt().cpu())


@dataclass(frozen=True)
class FLAP(OneShot):
    """Scores a node by the variance of its activation x squared norm of the weights that read it (FLAP).

    Scores are standardised in each group, so that they compete across groups.

    Attributes:
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(memory="a mean and a variance per input", stage="trained")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        scores = _scores(task, lambda v, w: w.square().sum(0) * v.variance.cpu())
        return {name: _standardise(s) for name, s in scores.items()}


def _standardise(scores: Tensor) -> Tensor:
    """Scores that differ by their rounding only are equal."""
    deviation = scores.std(correction=0)
    return (scores - scores.mean()) / deviation.clamp_min(1e-300) * (deviation > 1e-12 * scores.abs().max())


def _scores(task: Task, score: PerFeature) -> dict[str, Tensor]:
    seen = observe_readers(task)
    found = {}
    for group, sites in readers_of(task):
        each = [_of_reader(site, group, seen[site.op], score) for site in sites] or [by_weight(task, group)]
        found[group.name] = torch.stack(each).sum(0)
    return found


def _of_reader(site: Site, group: NodeGroup, seen: Seen, score: PerFeature) -> Tensor:
    blocks = site.features_of(group, seen.weight)
    weights = site.by_group(seen.weight)
    parts = [score(v, w)[blocks].sum(1) for v, w in zip(seen.features, weights, strict=True)]
    return torch.stack(parts).sum(0)
