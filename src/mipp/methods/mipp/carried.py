"""The information that a group of nodes carries to the layers that read it, given the nodes kept so far."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mipp.estimators import (
    GaussianInformation,
    IndependentInformation,
    Information,
    Samples,
    SumInformation,
    apart,
)
from mipp.graph.nodes import NodeGroup, Site
from mipp.methods.common.inputs import by_weight
from mipp.plan.task import Task
from mipp.statistics.layer_samples import Reading, adjacent_samples
from mipp.statistics.observing import SiteStatistics, site_statistics
from mipp.statistics.shrinkage import note_few_rows, shrink

_CERTAIN = 2**53  # samples
_LARGE = 2048  # features from which on the second moments of a layer are worked on where they are, on a GPU
Statistics = Mapping[int, SiteStatistics]
Kept = Mapping[str, tuple[int, ...]]
Source = Callable[[NodeGroup, Kept], Information]
"""What a group carries to its readers, given the nodes kept so far."""


def by_moments(task: Task, positions: int, noise: float) -> Source:
    """Second moments suffice where the target is linear: one pass serves all groups."""

    def measure() -> Statistics:
        batches, limit = task.progress(task.batches, "statistics"), task.memory.statistics
        found = site_statistics(task.model, task.graph, batches, positions, limit, task.notes)
        task.notes.extend(note_few_rows(task.graph.program, found))
        return found

    statistics = task.once(f"statistics at {positions} positions", measure)

    def source(group: NodeGroup, kept: Kept) -> Information:
        alive = _alive(task, group, kept)
        found: list[Information] = []
        for site in task.graph.readers(group):
            found.extend(_about(site, group, statistics[site.op], alive, noise))
        return SumInformation(found or [_by_weights(task, group)])

    return source


def by_samples(
    task: Task, reading: Reading, noise: float, estimate: Callable[[Samples, torch.Generator], Information]
) -> Source:
    """Samples for any estimator: a pass for each group."""

    def source(group: NodeGroup, kept: Kept) -> Information:
        alive = _alive(task, group, kept)
        samples = adjacent_samples(task.model, task.graph, group, task.batches, alive, reading, noise)
        generator = task.generator().manual_seed(task.seed + group.first_node)
        return SumInformation([estimate(part, generator) for part in samples] or [_by_weights(task, group)])

    return source


def target_shrank(task: Task, group: NodeGroup, kept: Kept) -> bool:
    """True if some of what the readers of a group write has gone."""
    alive = _alive(task, group, kept)
    writes = np.concatenate([np.empty(0, np.int64), *(site.writes for site in task.graph.readers(group))])
    return not alive[writes[writes >= 0]].all()


def _by_weights(task: Task, group: NodeGroup) -> Information:
    """The information of the weights, for groups without a reader to observe; a test without samples keeps all."""
    gain = by_weight(task, group)
    return IndependentInformation(0.5 * torch.log1p(gain / gain.mean().clamp_min(1e-300)), (1, 1), _CERTAIN)


def _alive(task: Task, group: NodeGroup, kept: Kept) -> NDArray[np.bool_]:
    return task.graph.keep_mask({n: nodes or (0,) for n, nodes in kept.items() if n != group.name})


def _about(
    site: Site, group: NodeGroup, statistics: SiteStatistics, alive: NDArray[np.bool_], noise: float
) -> list[GaussianInformation | IndependentInformation]:
    """The information of a group about the kept outputs of a site; a part per convolution group, more if it is wide."""
    blocks = site.features_of(group, statistics.weight)
    rows = torch.from_numpy(site.outputs_to_keep(alive)).reshape(site.groups, -1)
    weights = site.by_group(statistics.weight)
    floors = None if statistics.floor is None else statistics.floor.cpu().unflatten(0, (site.groups, -1))
    found: list[GaussianInformation | IndependentInformation] = []
    for index, weight in enumerate(weights):
        weight, floor = weight[rows[index]], None if floors is None else noise * floors[index][rows[index]]
        if statistics.layout != "unfolded":
            found += apart(weight, statistics.parts, statistics.of_group(index), blocks, floor, noise)
            continue
        moments = statistics.inputs[index]
        xx = shrink(moments)
        xx = xx if len(xx) >= _LARGE else xx.cpu()
        weight = weight.to(xx.device)
        xy = xx @ weight.mT
        yy = weight @ xy
        own = noise * yy.diagonal() if floor is None else floor.to(xx.device)
        found.append(GaussianInformation(xx, xy, yy, blocks, own, moments.count))
    return found
