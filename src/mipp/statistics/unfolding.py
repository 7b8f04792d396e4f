"""Inputs and outputs of layers as rows of features, position by position."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipp.graph.nodes import Site
from mipp.runtime.indexing import take, take_rows


def inputs_of(site: Site, arguments: Mapping[str, Any], limit: int | None = None, first: int | None = None) -> Tensor:
    """The inputs of a linear layer or convolution, position by position.

    Args:
        site: The op.
        arguments: Its arguments by name, as `as_layer` gives them.
        limit: At most this many positions of each sample are taken, at random.
        first: Number of the first sample, among all. Positions are then taken in turn, others in each sample, so that
            all are seen. None: the same in all samples.

    Returns:
        Shape [groups, samples x positions, inputs per group x kernel]; features in the order of the flattened weight.
    """
    rows, kernel = patches_of(site, arguments, limit, first), kernel_positions(arguments["weight"])
    return rows if kernel == 1 else rows.unflatten(-1, (kernel, -1)).transpose(-1, -2).flatten(-2)


def patches_of(site: Site, arguments: Mapping[str, Any], limit: int | None = None, first: int | None = None) -> Tensor:
    """The same inputs with all channels at one position of the kernel beside each other, as memory is read fastest.

    Returns:
        Shape [groups, samples x positions, kernel x inputs per group]; `places_of_weight` says which is which.
    """
    x, weight = arguments["input"], arguments["weight"]
    if "stride" not in arguments:
        return _subsample(x, limit, first).reshape(1, -1, x.shape[-1])
    spatial = weight.ndim - 2
    x = x.unsqueeze(0) if x.ndim == spatial + 1 else x
    x, strides, dilation, pads = (_padded if site.reads_axis == 1 else _spread)(x, weight.shape[2:], arguments)
    steps = list(zip(x.shape[2:], pads, weight.shape[2:], strides, dilation, strict=True))
    written = torch.Size((n + sum(pad) - d * (k - 1) - 1) // s + 1 for n, pad, k, s, d in steps)
    places, outside = _places(steps, written, _positions(written.numel(), limit, first, len(x)))
    if site.reads_axis == 0:
        places, outside = places.flip(2), outside.flip(2)
    read = _select(x.flatten(2), places.flatten(1), outside.flatten(1))
    read = read.view(len(x), *places.shape[1:], site.groups, -1)
    return read.permute(3, 0, 1, 2, 4).reshape(site.groups, len(x) * places.shape[1], -1)


def kernel_positions(weight: Tensor) -> int:
    """Positions of the kernel of a weight, 1 for a linear layer."""
    return weight[0, 0].numel() if weight.ndim > 2 else 1


def places_of_weight(kernel: int, inputs: int) -> Tensor:
    """For every feature of the flattened weight its place in rows of `patches_of`, shape [inputs x kernel].

    >>> places_of_weight(kernel=2, inputs=3).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return torch.arange(kernel * inputs).view(kernel, inputs).mT.flatten()


def channels_last(tensor: Tensor, dim: int, limit: int | None = None, first: int | None = None) -> Tensor:
    """Rows of a tensor with its channels (at `dim`) last, at the positions of `inputs_of`, shape [rows, channels]."""
    if dim % tensor.ndim == tensor.ndim - 1:
        return _subsample(tensor, limit, first).reshape(-1, tensor.shape[-1])
    tensor = tensor.unsqueeze(0) if dim % tensor.ndim == 0 else tensor
    maps = tensor.flatten(2)
    return _select(maps, _positions(maps.shape[2], limit, first, len(maps))).reshape(-1, tensor.shape[1])


def align(there: Tensor, shape: Sequence[int], kept: Mapping[int, NDArray[np.bool_]]) -> Tensor:
    """The part of a dense value that a cut one still has.

    Args:
        there: The dense value.
        shape: That of the cut one.
        kept: Which positions stay, by dimension; of dimensions of another length.
    """
    for dim, stay in kept.items():
        if there.shape[dim] != shape[dim]:
            there = take(there, dim % there.ndim, torch.from_numpy(np.flatnonzero(stay)).to(there.device))
    return there


def _select(maps: Tensor, places: Tensor, outside: Tensor | None = None) -> Tensor:
    """Maps [samples, channels, positions] at places [samples or 1, places]: [samples, places, channels].

    Places outside are zero. Where all samples have the same few, maps are turned after these are taken, unless their
    channels are last in memory already.
    """
    turned, zeros = maps.transpose(1, 2), torch.empty(0) if outside is None else outside.flatten().nonzero()[:, 0]
    if not len(zeros) and len(places) == 1 and torch.equal(places[0], torch.arange(maps.shape[2])):
        return turned.contiguous()
    if len(places) == 1 and places.shape[1] < maps.shape[2] and not turned.is_contiguous():
        read = turned[:, places[0].to(maps.device)]
    else:
        read = take_rows(turned.contiguous(), places.expand(len(maps), -1))
    if len(zeros):
        rows = read if len(places) == 1 else read.flatten(0, 1)
        rows.index_fill_(rows.ndim - 2, zeros.to(maps.device), 0)
    return read


_Step = tuple[int, tuple[int, int], int, int, int]
"""Along a dimension the size of a map, the zeros on either side, and a kernel's size, its stride and its dilation."""
_Strided = tuple[Tensor, list[int], list[int], list[tuple[int, int]]]
"""The input, and at which strides and dilations kernels read it, and how many zeros they see on either side."""


def _padded(x: Tensor, kernel: Sequence[int], arguments: Mapping[str, Any]) -> _Strided:
    stride, padding, dilation = (_each(arguments[k], len(kernel)) for k in ("stride", "padding", "dilation"))
    return x, stride, dilation, _padding(padding, kernel, dilation)


def _spread(x: Tensor, kernel: Sequence[int], arguments: Mapping[str, Any]) -> _Strided:
    """The spread-out input of a transposed convolution, which a reversed kernel reads at a stride of one."""
    names = ("stride", "padding", "dilation", "output_padding")
    stride, padding, dilation, extra = (_each(arguments[k], len(kernel)) for k in names)
    spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
    places: tuple[Any, ...] = (..., *(slice(None, None, s) for s in stride))
    spread[places] = x
    sides = zip(kernel, padding, dilation, extra, strict=True)
    pads = [(d * (k - 1) - p, d * (k - 1) - p + e) for k, p, d, e in sides]
    return spread, [1] * len(kernel), dilation, pads


def _places(steps: Sequence[_Step], written: torch.Size, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Places in a flattened map that a kernel reads for the chosen outputs, and which of them lie outside of it.

    Args:
        steps: For each dimension.
        written: Size of the map of outputs.
        chosen: Places in this one, flattened, shape [samples or 1, outputs].

    Returns:
        Both of shape [samples or 1, outputs, kernel]; a place outside is any place.
    """
    places, outside = np.zeros((*chosen.shape, 1), np.int64), np.zeros((*chosen.shape, 1), np.bool_)
    outputs = np.unravel_index(chosen.numpy(), written)  # torch's own imports sympy
    for (n, (before, _), k, s, d), output in zip(steps, outputs, strict=True):
        place = (output[..., None] * s + np.arange(k) * d - before)[..., None, :]
        places = (places[..., None] * n + place.clip(0, n - 1)).reshape(*chosen.shape, -1)
        outside = (outside[..., None] | (place < 0) | (place >= n)).reshape(*chosen.shape, -1)
    return torch.from_numpy(places), torch.from_numpy(outside)


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(w // 2, w - w // 2) for w in whole]
    return [(p, p) for p in padding]


def _each(value: Any, count: int) -> Any:
    if isinstance(value, str):
        return value
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def _positions(total: int, limit: int | None, first: int | None, samples: int) -> Tensor:
    """Positions that are taken of each sample, ascending, shape [samples, positions], or [1, ...] for all the same."""
    if limit is None or total <= limit:
        return torch.arange(total)[None]
    return torch.from_numpy(_some(total, limit, first, samples))


@lru_cache(maxsize=16)
def _some(total: int, limit: int, first: int | None, samples: int) -> NDArray[np.int64]:
    """The same where not all are taken: what a layer reads and what it writes are asked for one after the other."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(total)).numpy()
    if first is None:
        return np.sort(order[None, :limit])
    turns = (first + np.arange(samples)[:, None]) * limit + np.arange(limit)
    return np.sort(order[turns % total])


def _subsample(x: Tensor, limit: int | None, first: int | None) -> Tensor:
    if x.ndim < 3:
        return x
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    chosen = _positions(flat.shape[1], limit, first, len(flat))
    return flat if chosen.shape[1] == flat.shape[1] else take_rows(flat, chosen.expand(len(flat), -1))
