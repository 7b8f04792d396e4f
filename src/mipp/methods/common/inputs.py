"""The inputs of the layers that read a group, for methods that score activations."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mipp.data.calibration import name_batch
from mipp.errors import MippError
from mipp.graph.nodes import NodeGroup, Site
from mipp.methods.common.slices import sum_by_node
from mipp.modules.copies import working_copy
from mipp.plan.task import Task
from mipp.runtime.tensor_store import format_bytes
from mipp.statistics.followed import Followed
from mipp.statistics.moments import Variances
from mipp.statistics.observing import SiteStatistics, check_finite, observe, site_statistics
from mipp.statistics.sampling import Sampling
from mipp.statistics.unfolding import inputs_of

POSITIONS = 64
_ROWS = 4096


@dataclass(frozen=True)
class Seen:
    """The activations that one reader of nodes sees.

    Attributes:
        weight: Of the reader.
        features: Mean and variance of the inputs of each convolution group.
    """

    weight: Tensor
    features: list[Variances]


def observe_readers(task: Task) -> dict[int, Seen]:
    """Means and variances of what every reader of nodes sees, by index of the op, from one pass over the data.

    All uses of one weight are together, under the first of them.
    """
    return task.once("means and variances", lambda: _observe(task))


def _observe(task: Task) -> dict[int, Seen]:
    found: dict[int, Seen] = {}
    start, _ = task.place()
    read: Counter[int] = Counter()  # samples, by op
    first = {use: site.op for site in task.graph.distinct_sites for use in task.graph.uses(site)}

    def visit(site: Site, arguments: Mapping[str, Any]) -> None:
        inputs = inputs_of(site, arguments, POSITIONS, start + read[site.op])
        read[site.op] += len(arguments["input"])
        own = found.setdefault(first[site.op], Seen(arguments["weight"].detach(), [Variances() for _ in inputs]))
        for variances, rows in zip(own.features, inputs, strict=True):
            for some in rows.split(_ROWS):
                variances.update(some)

    watch(task, None, visit)
    return {op: Seen(own.weight, [v.pool() for v in own.features]) for op, own in sorted(found.items())}


def statistics_of(task: Task) -> dict[int, SiteStatistics]:
    """Second moments of what every reader of nodes sees, by index of the op, from one pass over the data.

    Raises:
        MippError: They do not fit into memory.
    """
    return task.once("statistics", lambda: _whole_statistics(task))


def _whole_statistics(task: Task) -> dict[int, SiteStatistics]:
    batches, limit = task.progress(task.batches, "statistics"), task.memory.statistics
    first, _ = task.place()
    found = site_statistics(
        task.model, task.graph, batches, Sampling(lambda *_: POSITIONS, first=first), limit, task.notes
    )
    wide = [task.graph.program.ops[op].module for op, own in found.items() if own.layout != "unfolded"]
    if wide:
        raise MippError(
            f"The method needs the second moments of all inputs of a layer together, and memory_limit leaves "
            f"{format_bytes(limit)} for those of {len(found)} layers, too little for {', '.join(wide[:5])}. Pass "
            "a larger memory_limit, or take a method that needs less, such as mipp.methods.MIPP()."
        )
    return found


def watch(task: Task, samples: int | None, visit: Callable[[Site, Mapping[str, Any]], None]) -> int:
    """Runs the model on the first samples (None: on all); every op that reads nodes is visited with its arguments.

    Returns:
        The number of samples.

    Raises:
        CalibrationError: What an op reads is not finite.
    """
    model = working_copy(task.model)
    sites = {site.op: site for site in task.graph.sites if (site.reads >= 0).any()}

    def observer(index: int, arguments: Mapping[str, Any], result: Tensor) -> None:
        check_finite(task.graph, sites[index], [arguments["input"]], batch)
        visit(sites[index], arguments)

    seen, followed = 0, Followed()
    for batch in task.progress(task.batches, "activations"):
        with followed.attempt(), name_batch(batch):
            observe(model, batch.call, task.graph.program, list(sites), observer, known=followed.forms)
            seen += batch.samples
        if samples is not None and seen >= samples:
            break
    followed.tell(task.notes)
    return seen


def maps_of(site: Site, group: NodeGroup, arguments: Mapping[str, Any]) -> Tensor:
    """Feature maps of every node as a reader sees them, shape [samples, nodes, maps per node, height, width].

    A linear layer behind a flattening reads maps of unknown shape: square ones where their size allows it.
    """
    x: Tensor = arguments["input"]
    positions = torch.from_numpy(group.places(site.reads)).to(x.device)
    if "stride" in arguments:
        return _convolve(x, arguments["weight"].ndim - 2, site.groups, positions)
    rows = x.reshape(len(x) if x.ndim > 1 else 1, -1, x.shape[-1])
    maps: Tensor = rows[:, :, positions].permute(0, 2, 1, 3).unsqueeze(2)  # [samples, nodes, 1, rows, width]
    side = round(maps.shape[-1] ** 0.5)
    return maps.unflatten(-1, (side, side)).squeeze(3) if maps.shape[3] == 1 and side**2 == maps.shape[-1] else maps


def _convolve(x: Tensor, spatial: int, groups: int, positions: Tensor) -> Tensor:
    x = x.unsqueeze(0) if x.ndim == spatial + 1 else x
    channels = x.unflatten(1, (groups, -1))[:, :, positions]  # [samples, groups, nodes, each, *space]
    maps: Tensor = channels.movedim(1, 2).flatten(2, 3)
    return maps.unsqueeze(3) if spatial == 1 else maps.flatten(3, 1 + spatial) if spatial > 2 else maps


def readers_of(task: Task) -> Iterator[tuple[NodeGroup, list[Site]]]:
    """Every group with the ops that read it; where there are none, see `by_weight`."""
    for group in task.graph.groups.values():
        yield group, task.graph.readers(group)


def groups_read(task: Task) -> dict[int, list[NodeGroup]]:
    """The groups that are read by every op, at each use of its weight."""
    found: dict[int, list[NodeGroup]] = {site.op: [] for site in task.graph.sites}
    for group, sites in readers_of(task):
        for use in (use for site in sites for use in task.graph.uses(site)):
            found[use].append(group)
    return found


def by_weight(task: Task, group: NodeGroup) -> Tensor:
    """Squared weights that read each node, shape [nodes]: where nothing that reads a group can be observed.

    It is as if the nodes were independent and of one variance; the report gets a note.
    """
    task.notes.append(f"What reads '{group.name}' is no layer that can be observed: its nodes are ranked by weight.")
    return sum_by_node(group, dict(task.model.named_parameters()), lambda w: w.square().sum(1), reads=True)
