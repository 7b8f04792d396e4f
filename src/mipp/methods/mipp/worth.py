"""The worth of the information of a group: how far the outputs move when half of its nodes go."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mipp.data.calibration import pieces
from mipp.errors import UnsupportedModelError
from mipp.estimators.features import eye
from mipp.graph.bottlenecks import is_chain
from mipp.graph.call import Call
from mipp.graph.layers import as_layer
from mipp.graph.nodes import NodeGroup, PruningGraph, Site
from mipp.graph.program import Ref, execute
from mipp.graph.row_norms import has_normalised_streams
from mipp.plan.elimination import Elimination
from mipp.plan.task import Task
from mipp.refit.losses import Values, divergence, floating, relative_error
from mipp.runtime.distributed import gather
from mipp.statistics.moments import BlockMoments
from mipp.statistics.observing import SiteStatistics, rotate
from mipp.statistics.paths import Paths

_FEWEST = 2  # samples, unless the outputs of one
_ROWS = 64  # have so many rows
_RIDGE = 1e-3
_IN_CACHE = 1 << 16  # numbers
FAR = 1e6  # where outputs are no numbers

Worth = Mapping[str, tuple[int, float]]
"""By group: how many nodes went, and how far the outputs moved."""


@dataclass(frozen=True)
class Asking:
    """A way to ask the outputs what the nats of a group are worth, and to believe them.

    Attributes:
        believed: 1 takes them at their word, 0 leaves the nats of all groups alike. Between these the rates of exchange
            are raised to this power: at a half, losses are the geometric mean of both.
        every: One in so many calibration samples is looked at.
        most: At most so many are.
        logits: Whether KL counts, too, over a last dimension of several, as that of logits. Without it the unit of the
            outputs does not matter.
    """

    believed: float = 1.0
    every: int = 32
    most: int = 64
    logits: bool = True


WHOLLY, HALFWAY = Asking(), Asking(0.5, every=8, most=128, logits=False)


def asking(graph: PruningGraph) -> Asking | None:
    """The way that suits a network; None where nats are worth about the same in all groups."""
    if has_normalised_streams(graph):
        return WHOLLY
    return HALFWAY if is_chain(graph) else None


def measure_worth(
    task: Task, statistics: Mapping[int, SiteStatistics], curves: Mapping[str, Elimination], ask: Asking = WHOLLY
) -> Worth:
    """Takes away half of the nodes of one group after the other, those that its curve loses first.

    The weights that read the others make up for them as far as second moments tell. What a few samples show of the
    outputs is then compared with the dense ones: the squared error relative to their variance, and, if asked for, the
    divergence of what may be logits.

    Args:
        task: What is pruned; its first samples are looked at.
        statistics: Moments of the inputs of the readers, by op.
        curves: Orders of removal, by group.
        ask: How many samples are looked at, and at what of the outputs.

    Raises:
        UnsupportedModelError: The model cannot be run op by op, in one of the processes at least.
    """

    def measure() -> dict[str, Any]:
        try:
            own: dict[str, float] | str = _distances(task, statistics, curves, ask)
        except UnsupportedModelError as error:
            own = str(error)
        found = gather(own)  # those of all processes, each of its own samples
        if (reason := next((one for one in found if isinstance(one, str)), None)) is not None:
            raise UnsupportedModelError(reason)
        distances = [one for one in found if not isinstance(one, str)]
        return {n: (_gone(task.graph.groups[n]), sum(one[n] for one in distances) / len(found)) for n in distances[0]}

    return task.step(f"worth of {', '.join(curves)}", measure)


def _distances(
    task: Task, statistics: Mapping[int, SiteStatistics], curves: Mapping[str, Elimination], ask: Asking
) -> dict[str, float]:
    """The distances that the outputs of this process move, by group."""
    groups = [group for name in curves if _gone(group := task.graph.groups[name]) < group.size]
    readers = {g.name: [site for site in task.graph.readers(g) if site.op in statistics] for g in groups}
    outputs, found = Outputs(task, ask), {}
    read = sorted((g for g in groups if readers[g.name]), key=lambda g: outputs.start_of(readers[g.name]))
    for group in task.progress(read, "worth of the groups", len(read)):
        kept, sites = curves[group.name].order[_gone(group) :], readers[group.name]
        weights = {site.op: repair(group, site, statistics[site.op], kept) for site in sites}
        found[group.name] = outputs.distance(sites, weights)
    return {name: found[name] for name in curves if name in found}


def _gone(group: NodeGroup) -> int:
    return (group.size + 1) // 2


def weigh(curves: Mapping[str, Elimination], worth: Worth, believed: float = 1.0) -> dict[str, Elimination]:
    """Curves in the unit of the outputs: where half of the nodes have gone, the loss is how far the outputs moved.

    Groups of which nothing is known are worth what the others are in the mean (geometric).

    Args:
        curves: Losses in nats, by group.
        worth: What was measured.
        believed: How far (see `Asking`).
    """
    rates = {
        name: (moved / curves[name].loss[gone]) ** believed
        for name, (gone, moved) in worth.items()
        if name in curves and 0 < curves[name].loss[gone] < math.inf
    }
    logs = [math.log(rate) for rate in rates.values() if rate > 0]
    usual = math.exp(sum(logs) / len(logs)) if logs else 1.0
    return {
        name: Elimination(curve.order, tuple(rates.get(name, usual) * loss for loss in curve.loss))
        for name, curve in curves.items()
    }


class Outputs:
    """The dense outputs of a few samples, and how far they move when some layers have other weights."""

    @torch.no_grad()
    def __init__(self, task: Task, ask: Asking) -> None:
        paths = Paths(task.model, task.graph)
        self._passes = [_Pass(paths, call) for call in _few(task, ask)]
        self._targets, self._logits = _joined([one.run([], {}) for one in self._passes]), ask.logits

    def start_of(self, sites: Sequence[Site]) -> int:
        """The first op that runs anew with other weights of some layers."""
        return self._passes[0].start_of(sites)

    @torch.no_grad()
    def distance(self, sites: Sequence[Site], weights: Mapping[int, Tensor]) -> float:
        """The distance that they move.

        Args:
            sites: The layers; what is in front of them is computed anew if they start before those of the last call.
            weights: By op, shape [outputs, inputs per group, ...].
        """
        outputs = _joined([one.run(sites, weights) for one in self._passes])
        return finite(output_distance(outputs, self._targets, logits=self._logits))


class _Pass:
    """A pass over some samples, and the values of the dense network in front of one of its ops."""

    def __init__(self, paths: Paths, call: Call) -> None:
        self._path = paths.find(call)
        self._inputs = dict(zip(self._path.program.inputs, call.tensors, strict=True))
        self._dense, self._at = dict(self._inputs), 0

    def start_of(self, sites: Sequence[Site]) -> int:
        """The first op that runs anew with other weights of some layers."""
        program = self._path.program
        starts = (program.start_of(op.index) for site in sites for op in self._path.uses(site))
        return min(starts, default=len(program.ops))

    def run(self, sites: Sequence[Site], weights: Mapping[int, Tensor]) -> Values:
        """The outputs with other weights of some layers, by op."""
        program, bound = self._path.program, self._path.bound
        start = self.start_of(sites) if sites else 0
        values = self._values_before(start)
        for site in sites:
            for op in self._path.uses(site):
                place = as_layer(op.name, op.arguments)["weight"]
                if isinstance(place, Ref):
                    values[place.index] = site.swap_axes(weights[site.op])
        execute(program, values, bound, (start, len(program.ops)), program.outputs)
        return floating([values[index] if index in values else bound[index] for index in program.outputs])

    def _values_before(self, start: int) -> dict[int, Tensor]:
        if start < self._at:
            self._dense, self._at = dict(self._inputs), 0
        if start > self._at:
            execute(self._path.program, self._dense, self._path.bound, (self._at, start))
            self._at = start
        return dict(self._dense)


def _joined(passes: Sequence[Values]) -> Values:
    """The outputs of several passes as one: rows over a last dimension that they share, else numbers."""
    found = []
    for parts in zip(*passes, strict=False):
        rows = [part.flatten(0, -2) if part.ndim > 1 else part.flatten() for part in parts]
        alike = len({part.shape[1:] for part in rows}) == 1
        found.append(torch.cat(rows if alike else [part.flatten() for part in rows]))
    return found


def _few(task: Task, ask: Asking) -> list[Call]:
    """Calls of the first samples, as many as are looked at, however the data are batched."""
    left, found = looked_at(task, ask, sum(batch.samples for batch in task.batches)), []
    for batch in task.batches:
        piece = next(iter(pieces(batch, left, left)))
        found.append(piece.call)
        left -= piece.samples
        if left <= 0:
            break
    return found


def looked_at(task: Task, ask: Asking, samples: int) -> int:
    """The number of samples that are looked at, of so many; one may do where its outputs have many rows."""
    program, batch = task.graph.program, task.graph.batch
    rows = max((math.prod(program.values[index].shape[:-1]) / batch for index in program.outputs), default=0)
    return min(max(samples // ask.every, 1 if rows >= _ROWS else _FEWEST), ask.most)


def repair(group: NodeGroup, site: Site, statistics: SiteStatistics, kept: Sequence[int]) -> Tensor:
    """The weight of a reader that reads some nodes of a group only: of all such, what comes closest to the outputs."""
    weight = statistics.weight
    features, reads = site.features_of(group, weight), torch.ones(weight[0].numel(), dtype=torch.bool)
    reads[features.flatten()] = False
    reads[features[list(kept)].flatten()] = True
    groups = weight.detach().flatten(1).unflatten(0, (site.groups, -1))
    if statistics.layout == "node-wise":
        return _repair_by_node(groups, statistics, reads.to(weight.device)).flatten(0, 1).view(weight.shape).to(weight)
    rows = rotate(groups.double(), statistics.basis)
    parts = statistics.parts or [torch.arange(rows.shape[-1])]
    repaired = torch.zeros_like(rows)
    moments = iter(statistics.joint)
    for own, made in zip(rows, repaired, strict=True):
        for part in parts:
            second, left = next(moments).raw, reads[part].nonzero().flatten().to(own.device)
            part = part.to(own.device)
            among = second[left][:, left]
            among.diagonal().add_(_RIDGE * second.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny))
            factor = torch.linalg.cholesky_ex(among)[0]
            made[:, part[left]] = torch.cholesky_solve(second[left] @ own[:, part].mT, factor).mT
    back = None if statistics.basis is None else statistics.basis.mT
    return rotate(repaired, back).flatten(0, 1).view(weight.shape).to(weight)


def _repair_by_node(groups: Tensor, statistics: SiteStatistics, reads: Tensor) -> Tensor:
    """The same where nodes count as independent: each makes up for nothing but the ridge.

    Args:
        groups: The flattened weight, shape [groups, outputs, features].
        statistics: Those of the layer.
        reads: True for features that are read still, shape [features].
    """
    repaired = torch.zeros_like(groups, dtype=torch.promote_types(groups.dtype, torch.float32))
    for own, made, moments in zip(groups, repaired, statistics.inputs, strict=True):
        assert isinstance(moments, BlockMoments)
        for places, second in moments.raw:
            left = reads[places[:, 0]]
            places, second = places[left], second[left]
            ridge = _RIDGE * second.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
            factor = torch.linalg.cholesky_ex(second + ridge[:, None, None] * eye(second.shape[1], second))[0]
            keeps = torch.cholesky_solve(second, factor).to(made)
            if places.shape[1] == 1:
                made[:, places[:, 0]] = own[:, places[:, 0]] * keeps[:, 0, 0]
            else:
                made[:, places] = (keeps @ own[:, places].to(made).movedim(0, 2)).movedim(2, 0)
    return repaired


def finite(distance: float) -> float:
    """A distance, or a far one where outputs are no numbers."""
    return distance if math.isfinite(distance) else FAR


def output_distance(outputs: Values, targets: Values, *, logits: bool = True) -> float:
    """The squared error relative to the variance of the targets, and for logits KL over a last dimension of several."""
    total = 0.0
    for output, target in zip(outputs, targets, strict=True):
        total += float(relative_error(output, target))
        if logits and output.ndim > 1 and output.shape[-1] > 1:
            total += float(_mean_divergence(output.flatten(0, -2), target.flatten(0, -2)))
    return total


def _mean_divergence(output: Tensor, target: Tensor) -> Tensor:
    """The mean over rows, shape []; in pieces that stay in the cache, as the rows of a language model are long."""
    rows = max(1, _IN_CACHE // output.shape[1])
    pieces = zip(output.split(rows), target.split(rows), strict=True)
    sums = [len(some) * divergence(some, wanted) for some, wanted in pieces]
    return torch.stack(sums).sum(dtype=torch.float64) / len(output)
