"""Inputs and outputs of layers as rows of features, position by position."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.graph.nodes import Site


def inputs_of(site: Site, arguments: Mapping[str, Any], limit: int | None = None) -> Tensor:
    """The inputs of a linear layer or convolution, position by position.

    Args:
        site: The op.
        arguments: Its arguments by name, as `as_layer` gives them.
        limit: At most this many positions of each sample are taken, at random but the same in all.

    Returns:
        Shape [groups, samples x positions, inputs per group x kernel]; features in the order of the flattened weight.
    """
    x, weight = arguments["input"], arguments["weight"]
    if "stride" not in arguments:
        return _subsample(x, limit).reshape(1, -1, x.shape[-1])
    spatial = weight.ndim - 2
    x = x.unsqueeze(0) if x.ndim == spatial + 1 else x
    padded, strides, dilation = (_pad if site.reads_axis == 1 else _spread)(x, weight.shape[2:], arguments)
    places = _places(padded.shape[2:], weight.shape[2:], strides, dilation, limit)
    if site.reads_axis == 0:
        places = places.flip(1)
    patches = padded.flatten(2).index_select(2, places.flatten().to(x.device)).unflatten(2, places.shape)
    rows: Tensor = patches.transpose(1, 2).reshape(len(x) * len(places), site.groups, -1)
    return rows.transpose(0, 1)


def channels_last(tensor: Tensor, dim: int, limit: int | None = None) -> Tensor:
    """Rows of a tensor with its channels (at `dim`) last, at the positions of `inputs_of`, shape [rows, channels]."""
    if dim % tensor.ndim == tensor.ndim - 1:
        return _subsample(tensor, limit).reshape(-1, tensor.shape[-1])
    tensor = tensor.unsqueeze(0) if dim % tensor.ndim == 0 else tensor
    flat = tensor.flatten(2)
    chosen = _positions(tensor.shape[2:], limit)
    return flat[:, :, chosen].transpose(1, 2).reshape(-1, tensor.shape[1])


def align(there: Tensor, here: Tensor, kept: Mapping[int, NDArray[np.bool_]]) -> Tensor:
    """The part of a dense value that a cut one still has.

    Args:
        there: The dense value.
        here: The cut one.
        kept: Which positions stay, by dimension; of dimensions of another length.
    """
    for dim, stay in kept.items():
        if there.shape[dim] != here.shape[dim]:
            there = there.index_select(dim, torch.from_numpy(np.flatnonzero(stay)).to(there.device))
    return there


def _pad(x: Tensor, kernel: Sequence[int], arguments: Mapping[str, Any]) -> tuple[Tensor, list[int], list[int]]:
    """The padded input, and the strides and dilations at which kernels read it."""
    stride, padding, dilation = (_each(arguments[k], len(kernel)) for k in ("stride", "padding", "dilation"))
    amounts = [side for pad in reversed(_padding(padding, kernel, dilation)) for side in pad]
    return nn.functional.pad(x, amounts), stride, dilation


def _spread(x: Tensor, kernel: Sequence[int], arguments: Mapping[str, Any]) -> tuple[Tensor, list[int], list[int]]:
    """The spread-out input of a transposed convolution, which a reversed kernel reads at a stride of one."""
    names = ("stride", "padding", "dilation", "output_padding")
    stride, padding, dilation, extra = (_each(arguments[k], len(kernel)) for k in names)
    spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
    places: tuple[Any, ...] = (..., *(slice(None, None, s) for s in stride))
    spread[places] = x
    sides = zip(kernel, padding, dilation, extra, strict=True)
    amounts = [n for k, p, d, e in reversed(list(sides)) for n in (d * (k - 1) - p, d * (k - 1) - p + e)]
    return nn.functional.pad(spread, amounts), [1] * len(kernel), dilation


def _places(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int], limit: int | None
) -> Tensor:
    """Places in a flattened map of this size that the kernel reads for the chosen outputs, [outputs, kernel]."""
    steps = list(zip(size, kernel, strides, dilation, strict=True))
    written = torch.Size((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in steps)
    chosen = torch.unravel_index(_positions(written, limit), written)
    within = torch.unravel_index(torch.arange(torch.Size(kernel).numel()), tuple(kernel))
    places = torch.zeros(len(chosen[0]), len(within[0]), dtype=torch.long)
    for (n, _, s, d), outer, inner in zip(steps, chosen, within, strict=True):
        places = places * n + outer[:, None] * s + inner * d
    return places


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


def _positions(size: torch.Size, limit: int | None) -> Tensor:
    total = size.numel()
    if limit is None or total <= limit:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(total))[:limit].sort().values


def _subsample(x: Tensor, limit: int | None) -> Tensor:
    if x.ndim < 3:
        return x
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return flat[:, _positions(torch.Size([flat.shape[1]]), limit)]
