"""Chooses the second moments of a layer that are kept: all, or fewer where all would not fit into memory."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mipp.graph.axes import Ints
from mipp.graph.layers import as_layer
from mipp.graph.nodes import PruningGraph, Site
from mipp.runtime.record import Notes
from mipp.runtime.tensor_store import format_bytes

Layout = Literal["unfolded", "channel-wise", "node-wise"]
LAYOUTS: tuple[Layout, ...] = ("unfolded", "channel-wise", "node-wise")
_LEFT_OUT = {
    "channel-wise": "how the positions of one channel (in the kernel or the flattened image) go together",
    "node-wise": "how nodes go together",
}


def features_together(site: Site, kernel: int, layout: Layout) -> list[Tensor]:
    """Features of a convolution group, in the order of the flattened weight, whose moments are taken together.

    Args:
        site: The layer.
        kernel: Positions of its kernel, 1 for a linear layer.
        layout: "unfolded": all features. "channel-wise": one position of every node. "node-wise": all positions of one
            node.
    """
    everything = np.arange(len(site.reads) * kernel)
    if layout == "unfolded":
        return [torch.from_numpy(everything)]
    owner = np.repeat(np.where(site.reads >= 0, site.reads, -1 - np.arange(len(site.reads))), kernel)
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], owner[order])
    position = np.empty_like(order)
    position[order] = np.arange(len(order)) - first  # how many features of the same node come before
    return _runs(position if layout == "channel-wise" else owner)


def choose(graph: PruningGraph, sites: Sequence[Site], limit: float, notes: Notes) -> dict[int, Layout]:
    """The finest layout of every site with which all statistics fit; what is not "unfolded" goes into the notes."""
    sizes = {site.op: _sizes(graph, site) for site in sites}
    chosen: dict[int, Layout] = dict.fromkeys(sizes, "unfolded")
    while _total(sizes, chosen) > limit:
        coarser = {op: layout for op in sizes if (layout := _next(sizes[op], chosen[op])) is not None}
        if not coarser:
            break
        widest = max(coarser, key=lambda op: sum(sizes[op][chosen[op]]))
        chosen[widest] = coarser[widest]
    for layout in LAYOUTS[1:]:
        names = [graph.program.ops[op].module for op, own in chosen.items() if own == layout]
        if names:
            notes.append(
                f"The statistics are {layout} for {', '.join(names)}: {_LEFT_OUT[layout]} is left out, because "
                f"memory_limit leaves {format_bytes(limit)}."
            )
    return chosen


def kernel_of(graph: PruningGraph, site: Site) -> int:
    """Positions of the kernel of a site, 1 for a linear layer."""
    return int(np.prod(_weight_shape(graph, site)[2:], dtype=np.int64))


def _runs(key: Ints) -> list[Tensor]:
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order])) + 1
    return [torch.from_numpy(run) for run in np.split(order, starts)]


def _sizes(graph: PruningGraph, site: Site) -> dict[Layout, tuple[int, int]]:
    """Bytes of the moments of a site and of what is computed from them when its nodes are chosen, by layout."""
    outputs, kernel = _weight_shape(graph, site)[0] // site.groups, kernel_of(graph, site)
    sizes: dict[Layout, tuple[int, int]] = {}
    for layout in LAYOUTS:
        widths = [len(part) for part in features_together(site, kernel, layout)]
        kept = sum(width**2 for width in widths)
        work = sum(4 * width**2 + 2 * width * outputs + 2 * outputs**2 for width in widths)
        if layout == "node-wise":
            work = sum(widths) * outputs
        sizes[layout] = 8 * site.groups * kept, 8 * site.groups * work
    return sizes


def _weight_shape(graph: PruningGraph, site: Site) -> tuple[int, ...]:
    op = graph.program.ops[site.op]
    index: int = as_layer(op.name, op.arguments)["weight"].index
    return tuple(site.swap_axes(torch.empty(graph.program.values[index].shape, device="meta")).shape)


def _total(sizes: Mapping[int, Mapping[Layout, tuple[int, int]]], chosen: Mapping[int, Layout]) -> int:
    parts = [sizes[op][layout] for op, layout in chosen.items()]
    return sum(kept for kept, _ in parts) + max((sum(part) for part in parts), default=0)


def _next(sizes: Mapping[Layout, tuple[int, int]], layout: Layout) -> Layout | None:
    later = LAYOUTS[LAYOUTS.index(layout) + 1 :]
    return next((other for other in later if sum(sizes[other]) < sum(sizes[layout])), None)
