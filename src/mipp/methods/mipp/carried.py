"""The information that a group of nodes carries to the layers that read it, given the nodes kept so far."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipp.data.calibration import Batch
from mipp.estimators import (
    Features,
    GaussianInformation,
    IndependentInformation,
    Information,
    Samples,
    SumInformation,
    apart,
    by_node,
    linear_information,
    memorised,
    variances_apart,
    with_drawn_noise,
)
from mipp.graph.axes import Ints
from mipp.graph.nodes import NodeGroup, Site
from mipp.methods.common.inputs import by_weight
from mipp.plan.task import Task
from mipp.runtime.distributed import gather
from mipp.statistics.layer_samples import Reading, adjacent_samples
from mipp.statistics.moments import BlockMoments, Moments
from mipp.statistics.observing import SiteStatistics, rotate, site_statistics
from mipp.statistics.sampling import Sampling
from mipp.statistics.shrinkage import note_few_rows, shrink

_CERTAIN = 2**53  # samples
_LARGE = 2048  # features from which on the second moments of a layer are worked on where they are, on a GPU
_TOGETHER = 1024  # inputs of a convolution (channels times positions of the kernel) up to which all moments are taken
_NEGATIVE = (
    "Information of group '{}': {:.2f} nats on the samples held out, which is less than none: the estimator has "
    "memorised its own, and what it says of single nodes means nothing. Pass more samples, or an estimator that fits "
    "fewer steps or stops early."
)
Kept = Mapping[str, tuple[int, ...]]
Source = Callable[[NodeGroup, Kept], Information]
"""What a group carries to its readers, given the nodes kept so far."""


def by_moments(task: Task, positions: int, noise: float) -> Source:
    """Second moments suffice where the target is linear: one pass serves all groups."""
    found = measured(task, positions)

    def source(group: NodeGroup, kept: Kept) -> Information:
        alive = _alive(task, group, kept)
        parts: list[Information] = []
        for site in task.graph.readers(group):
            parts.extend(_about(site, group, found, alive, noise))
        return SumInformation(parts or [_by_weights(task, group)])

    return source


def measured(task: Task, positions: int) -> "Measured":
    """The statistics of one dense pass, made once."""

    def measure() -> Measured:
        batches, limit = task.progress(task.batches, "statistics"), task.memory.statistics
        first, samples = task.place()
        most = max(1, min(gather(_samples_to_thin(task.batches))) // 2)  # every process has one that is looked at

        def taken(inputs: int, stride: int) -> int:
            return min(positions, task.effort.positions_for(inputs, samples, stride))

        def stride(inputs: int, rows: float) -> int:
            return min(most, task.effort.stride_for(inputs, min(positions, rows), samples))

        sampling = Sampling(taken, stride, first)
        found = site_statistics(task.model, task.graph, batches, sampling, limit, task.notes, _TOGETHER)
        task.notes.extend(note_few_rows(task.graph.program, found))
        return Measured(found, limit)

    return task.once(f"statistics at {positions} positions", measure)


def _samples_to_thin(batches: Sequence[Batch]) -> int:
    """Number of samples, none where some stand in a batch that stays whole: all are looked at then."""
    return sum(batch.samples for batch in batches) if all(batch.divisible for batch in batches) else 0


def by_samples(
    task: Task,
    reading: Reading,
    noise: float,
    estimate: Callable[[Samples, torch.Generator], Information],
    *,
    test: bool,
) -> Source:
    """Samples for any estimator: a pass for each group. A test has its noise drawn."""

    def source(group: NodeGroup, kept: Kept) -> Information:
        alive = _alive(task, group, kept)
        samples = adjacent_samples(task.model, task.graph, group, task.batches, alive, reading, noise, task.notes)
        generator = task.generator().manual_seed(task.seed + group.first_node)
        if test:
            samples = [with_drawn_noise(part, generator) for part in samples]
        found = SumInformation([estimate(part, generator) for part in samples] or [_by_weights(task, group)])
        if (nats := memorised(found)) is not None:
            task.notes.warn(_NEGATIVE.format(group.name, nats))
        return found

    return source


def target_shrank(task: Task, group: NodeGroup, kept: Kept) -> bool:
    """True if some of what the readers of a group write has gone."""
    return not _alive(task, group, kept)[_written(task, group)].all()


def part_in_target(task: Task, group: NodeGroup, kept: Kept) -> Kept:
    """The groups that the readers of a group write and that have shrunk: what the others keep is nothing to it."""
    written, groups = _written(task, group), task.graph.groups
    own = [groups[name] for name, nodes in kept.items() if name != group.name and len(nodes) < groups[name].size]
    spans = {g.name: np.searchsorted(written, (g.first_node, g.first_node + g.size)) for g in own}
    return {name: kept[name] for name, (start, stop) in spans.items() if start < stop}


def _written(task: Task, group: NodeGroup) -> Ints:
    """The nodes that the readers of a group write, ascending."""
    writes = np.unique(np.concatenate([np.empty(0, np.int64), *(site.writes for site in task.graph.readers(group))]))
    return writes[writes >= 0]


def _by_weights(task: Task, group: NodeGroup) -> Information:
    """The information of the weights, for groups without a reader to observe; a test without samples keeps all."""
    gain = by_weight(task, group)
    return IndependentInformation(0.5 * torch.log1p(gain / gain.mean().clamp_min(1e-300)), (1, 1), _CERTAIN)


def _alive(task: Task, group: NodeGroup, kept: Kept) -> NDArray[np.bool_]:
    return task.graph.keep_mask({n: nodes or (0,) for n, nodes in kept.items() if n != group.name})


def _about(
    site: Site, group: NodeGroup, measured: "Measured", alive: NDArray[np.bool_], noise: float
) -> list[GaussianInformation | IndependentInformation]:
    """The information of a group about the kept outputs of a site; a part per convolution group, more if it is wide."""
    statistics = measured.statistics[site.op]
    blocks = site.features_of(group, statistics.weight)
    rows = torch.from_numpy(site.outputs_to_keep(alive)).reshape(site.groups, -1)
    floors = None if statistics.floor is None else statistics.floor.cpu().unflatten(0, (site.groups, -1))
    if statistics.layout == "node-wise":
        return _by_node(statistics, site.groups, rows, blocks, floors, noise)
    found: list[GaussianInformation | IndependentInformation] = []
    for index, weight in enumerate(measured.weights(site)):
        weight, floor = weight[rows[index]], None if floors is None else noise * floors[index][rows[index]]
        moments = measured.moments(site, index)
        if statistics.layout != "unfolded":
            found += apart(weight, statistics.parts, moments, blocks, floor, noise)
            continue
        ((xx, samples),) = moments
        weight = weight.to(xx.covariance.device)
        if floor is None:
            floor = noise * (weight.mT * xx.with_target(weight)).sum(0)
        found.append(linear_information(xx, weight, blocks, floor.to(weight.device), samples))
    return found


def _by_node(
    statistics: SiteStatistics, groups: int, rows: Tensor, blocks: Tensor, floors: Tensor | None, noise: float
) -> list[GaussianInformation | IndependentInformation]:
    """The information of nodes that count as independent about the outputs (true in `rows`) of each group."""
    weight = statistics.weight.detach().cpu().flatten(1).unflatten(0, (groups, -1))
    found: list[GaussianInformation | IndependentInformation] = []
    for index, moments in enumerate(statistics.inputs):
        assert isinstance(moments, BlockMoments)
        own = weight[index] if rows[index].all() else weight[index][rows[index]]
        if floors is None:
            floor = variances_apart(own, [(places.cpu(), xx.cpu()) for places, xx in moments.covariances])
        else:
            floor = floors[index][rows[index]]
        found.append(by_node(own, blocks, moments.of(blocks).cpu(), noise * floor, moments.count))
    return found


class Measured:
    """Statistics of one dense pass, and what is made of them, kept within a limit of bytes.

    Args:
        statistics: By index of the op.
        limit: Bytes for the statistics and what is made of them.
    """

    def __init__(self, statistics: Mapping[int, SiteStatistics], limit: float) -> None:
        self.statistics = statistics
        moments = {id(m): m.nbytes for own in statistics.values() for m in own.inputs}
        self._left = limit - sum(moments.values())
        self._features: dict[int, Features] = {}

    def moments(self, site: Site, index: int) -> list[tuple[Features, int]]:
        """The moments of the inputs of a convolution group, part by part, and the number of samples behind them."""
        statistics = self.statistics[site.op]
        count = max(len(statistics.parts), 1)
        own = statistics.joint[index * count : (index + 1) * count]
        return [(self._prepared(moments), moments.count) for moments in own]

    def weights(self, site: Site) -> Tensor:
        """The weight by convolution group, in the basis of the statistics, shape [groups, outputs, features]."""
        statistics = self.statistics[site.op]
        return rotate(site.by_group(statistics.weight), statistics.basis)

    def _prepared(self, moments: Moments) -> Features:
        known = self._features.get(id(moments))
        if known is None:
            xx = shrink(moments)
            known = Features.of(xx if len(xx) >= _LARGE else xx.cpu())
            if known.nbytes <= self._left:
                self._left -= known.nbytes
                self._features[id(moments)] = known
        return known
