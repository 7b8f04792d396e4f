"""What the layers that read a group see: shared by methods that look at activations."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mipp.activations import SiteStatistics, check_finite, observe, site_statistics
from mipp.calibration import blamed
from mipp.graph.copies import working_copy
from mipp.graph.groups import NodeGroup, Site
from mipp.methods.base import Task

POSITIONS = 64


def statistics_of(task: Task) -> dict[int, SiteStatistics]:
    """Second moments of what every reader of nodes sees, by index of the op, from one pass over the data."""
    batches = task.progress(task.batches, "statistics")
    return task.once("statistics", lambda: site_statistics(task.model, task.graph, batches, POSITIONS))


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

    seen = 0
    for batch in task.progress(task.batches, "activations"):
        with blamed(batch):
            observe(model, batch.call, task.graph.program, list(sites), observer)
        seen += batch.samples
        if samples is not None and seen >= samples:
            break
    return seen


def maps_of(site: Site, group: NodeGroup, arguments: Mapping[str, Any]) -> Tensor:
    """Feature maps of every node as a reader sees them, shape [samples, nodes, maps per node, height, width].

    A linear layer behind a flattening reads maps of unknown shape: square ones where their size allows it.
    """
    x: Tensor = arguments["input"]
    positions = torch.from_numpy(group.places(site.reads)).to(x.device)
    if "stride" in arguments:
        return _convolved(x, arguments["weight"].ndim - 2, site.groups, positions)
    rows = x.reshape(len(x) if x.ndim > 1 else 1, -1, x.shape[-1])
    maps: Tensor = rows[:, :, positions].permute(0, 2, 1, 3).unsqueeze(2)  # [samples, nodes, 1, rows, width]
    side = round(maps.shape[-1] ** 0.5)
    return maps.unflatten(-1, (side, side)).squeeze(3) if maps.shape[3] == 1 and side**2 == maps.shape[-1] else maps


def _convolved(x: Tensor, spatial: int, groups: int, positions: Tensor) -> Tensor:
    x = x.unsqueeze(0) if x.ndim == spatial + 1 else x
    channels = x.unflatten(1, (groups, -1))[:, :, positions]  # [samples, groups, nodes, each, *space]
    maps: Tensor = channels.movedim(1, 2).flatten(2, 3)
    return maps.unsqueeze(3) if spatial == 1 else maps.flatten(3, 1 + spatial) if spatial > 2 else maps


def readers_of(task: Task) -> Iterator[tuple[NodeGroup, list[Site]]]:
    """Every group with the ops that read it."""
    for group in task.graph.groups.values():
        yield group, task.graph.readers(group)
