"""Chooses the second moments of a layer that are kept: all, or fewer where all would not fit into memory."""

import math
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
    "channel-wise": "how frequencies in the kernel, or positions of the flattened image, go together",
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


def kernel_basis(size: Sequence[int]) -> Tensor:
    """Orthonormal cosines over the positions of a kernel, one a column: neighbours go together, frequencies hardly do.

    Source: Ahmed, Natarajan & Rao, Discrete cosine transform, 1974.
    """
    basis = torch.ones(1, 1, dtype=torch.float64)
    for length in size:
        place, frequency = torch.arange(length, dtype=torch.float64) + 0.5, torch.arange(length, dtype=torch.float64)
        waves = torch.cos(torch.pi / length * place[:, None] * frequency)
        waves[waves.abs() < 1e-12] = 0  # a quarter turn: what rounding leaves of it would count as a number
        basis = torch.kron(basis, waves / waves.square().sum(0).sqrt())
    return basis


def choose(
    graph: PruningGraph, sites: Sequence[Site], limit: float, notes: Notes, together: float = math.inf
) -> dict[int, Layout]:
    """The finest layout of every site with which all statistics fit; what is not "unfolded" goes into the notes.

    Args:
        graph: The pruning graph.
        sites: Its sites.
        limit: Bytes for all statistics.
        notes: Gets a sentence on the sites that are not "unfolded".
        together: Convolutions of more inputs (channels times positions of the kernel) are "channel-wise" in any case.
    """
    sizes = {site.op: _sizes(graph, site) for site in sites}
    chosen: dict[int, Layout] = dict.fromkeys(sizes, "unfolded")
    for site in sites:
        kernel = kernel_of(graph, site)
        if kernel > 1 and len(site.reads) * kernel > together:
            chosen[site.op] = "channel-wise"
    wide = [graph.program.ops[op].module for op, layout in chosen.items() if layout != "unfolded"]
    if wide:
        notes.append(
            f"The statistics are channel-wise for {', '.join(wide)}, which read more than {together:,.0f} numbers: "
            f"{_LEFT_OUT['channel-wise']} is left out."
        )
    given = dict(chosen)
    while _total(sizes, chosen) > limit:
        coarser = {op: layout for op in sizes if (layout := _next(sizes[op], chosen[op])) is not None}
        if not coarser:
            break
        widest = max(coarser, key=lambda op: sum(sizes[op][chosen[op]]))
        chosen[widest] = coarser[widest]
    for layout in LAYOUTS[1:]:
        names = [graph.program.ops[op].module for op, own in chosen.items() if own == layout != given[op]]
        if names:
            notes.append(
                f"The statistics are {layout} for {', '.join(names)}: {_LEFT_OUT[layout]} is left out, because "
                f"memory_limit leaves {format_bytes(limit)}."
            )
    return chosen


def kernel_of(graph: PruningGraph, site: Site) -> int:
    """Positions of the kernel of a site, 1 for a linear layer."""
    return int(np.prod(kernel_size(graph, site), dtype=np.int64))


def kernel_size(graph: PruningGraph, site: Site) -> tuple[int, ...]:
    """Lengths of the kernel of a site, none for a linear layer."""
    return _weight_shape(graph, site)[2:]


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
