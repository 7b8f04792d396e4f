"""Weight norm: a weight that is kept as a direction and a length, under the names that torch gives the two."""

from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = ((".original1", ".original0"), ("weight_v", "weight_g"))


def length_of(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the length that belongs to a direction; None for any other tensor."""
    found = (name.removesuffix(direction) + length for direction, length in _NAMES if name.endswith(direction))
    return next((g for g in found if g in tensors and _is_length(tensors[g], tensors[name])), None)


def effective(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as layers compute with them, under the names of the directions; the lengths are left out."""
    lengths = {name: length for name in tensors if (length := length_of(name, tensors))}
    weights = {name: tensor for name, tensor in tensors.items() if name not in lengths.values()}
    for name, length in lengths.items():
        v, g = tensors[name].detach().double(), tensors[length].detach().double()
        weights[name] = g * v / torch.linalg.vector_norm(v, dim=_over(v, g), keepdim=True).clamp_min(1e-300)
    return weights


@torch.no_grad()
def settle(tensors: Mapping[str, Tensor]) -> None:
    """Makes lengths zero and directions one where a direction is all zero: torch would divide zero by zero."""
    for name, v in tensors.items():
        if (length := length_of(name, tensors)) is not None:
            g = tensors[length]
            gone = ~v.bool().any(dim=_over(v, g), keepdim=True)
            v.masked_fill_(gone, 1)
            g.masked_fill_(gone.view_as(g), 0)


def _is_length(g: Tensor, v: Tensor) -> bool:
    """True if a tensor has one number for every position in one dimension of another, or one for all."""
    return g.ndim == 0 or (g.ndim == v.ndim and sum(size > 1 for size in g.shape) <= 1)


def _over(v: Tensor, g: Tensor) -> tuple[int, ...]:
    """The dimensions of a direction that its length is one number for."""
    return tuple(dim for dim in range(v.ndim) if g.ndim == 0 or g.shape[dim] == 1)
