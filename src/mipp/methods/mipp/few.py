"""Groups of few nodes, such as attention heads, by how far the outputs move without some of them.

Second moments of what heads write do not tell what some of them are for: one that looks at the token before may write
little, and all that follows is built on it. Where nodes are few, the outputs can be asked about each.
"""

import math
from collections.abc import Mapping, Sequence

from mipp.errors import UnsupportedModelError
from mipp.graph.nodes import NodeGroup
from mipp.methods.mipp.worth import FAR, WHOLLY, Asking, Outputs, looked_at, repair
from mipp.plan.elimination import Elimination
from mipp.plan.task import Task
from mipp.runtime.distributed import gather
from mipp.statistics.observing import SiteStatistics

FEW = range(4, 17)
"""Numbers of nodes that are asked for; of two or three there is little to choose."""
_CLEARLY = 1.5
_PASSES = 3.0  # over the calibration data, for a first look at every node


def order_by_outputs(
    task: Task, statistics: Mapping[int, SiteStatistics], group: NodeGroup, curve: Elimination, ask: Asking = WHOLLY
) -> tuple[int, ...]:
    """The order in which nodes go: that of a curve, or one after which the outputs move clearly less.

    Of the nodes that are left that one goes next without which the outputs of a few samples move least, while the
    readers make up for it as far as second moments tell. What results is taken if the outputs move by less than two
    thirds, when half of the nodes are gone, of what they do in the order of the curve: few samples tell no more.

    Args:
        task: What is pruned; its first samples are looked at.
        statistics: Moments of the inputs of the readers, by op.
        group: The nodes, a few.
        curve: Their order so far.
        ask: How many samples are looked at, and at what of the outputs.
    """
    look = _Look(task, statistics, group, ask)
    if not (group.size in FEW and look.is_possible()):
        return curve.order
    half, gone = (group.size + 1) // 2, list[int]()
    before = look.distance(curve.order[half:])
    while len(gone) < group.size:
        if 0 < len(gone) <= half and not look.last * _CLEARLY < before:
            return curve.order
        gone.append(look.next(gone))
    return tuple(gone)


def may_ask(task: Task, ask: Asking = WHOLLY) -> bool:
    """True if a first look at each node of all groups of few takes no more than a few passes over the data."""
    program, graph = task.graph.program, task.graph
    _, samples = task.place()
    looks = 0.0
    for group in graph.groups.values():
        starts = [program.start_of(site.op) for site in graph.readers(group)]
        if group.size in FEW and starts:
            looks += (1 + group.size) * (1 - min(starts) / len(program.ops))
    return looks * looked_at(task, ask, samples) <= _PASSES * samples


class _Look:
    """The outputs without some nodes of a group, in the mean over all processes."""

    def __init__(self, task: Task, statistics: Mapping[int, SiteStatistics], group: NodeGroup, ask: Asking) -> None:
        self._task, self._statistics, self._group, self._ask = task, statistics, group, ask
        self._sites = [site for site in task.graph.readers(group) if site.op in statistics]
        self._least = [0.0] * group.size  # what the outputs moved without each node when fewer had gone
        self.last = FAR

    def is_possible(self) -> bool:
        """True if the group has readers, and the model can be run op by op in all processes."""
        try:
            self._outputs()
        except UnsupportedModelError:
            return all(gather(False))
        return all(gather(bool(self._sites)))

    def next(self, gone: Sequence[int]) -> int:
        """The node without which the outputs move least, when some have gone; the last one is not asked for.

        The more have gone, the further outputs move: a node without which they moved further before than they do
        without another now is not asked for again.
        """
        left = [node for node in range(self._group.size) if node not in gone]
        if len(left) == 1:
            return left[0]
        best, self.last = left[0], math.inf
        for node in sorted(left, key=lambda node: self._least[node]):
            if self._least[node] >= self.last:
                break
            moved = self._least[node] = self.distance([other for other in left if other != node])
            if moved < self.last:
                best, self.last = node, moved
        return best

    def distance(self, kept: Sequence[int]) -> float:
        """The distance that the outputs move where only some nodes are read."""
        try:
            weights = {site.op: repair(self._group, site, self._statistics[site.op], kept) for site in self._sites}
            own = self._outputs().distance(self._sites, weights)
        except UnsupportedModelError:  # the code branches on values
            own = FAR
        found = gather(own)
        return sum(found) / len(found)

    def _outputs(self) -> Outputs:
        return self._task.once(f"outputs, {self._ask}", lambda: Outputs(self._task, self._ask))
