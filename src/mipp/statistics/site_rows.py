"""Rows of inputs on their way from the passes of a model to the moments of a layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TOGETHER = 2048  # rows


class SiteRows:
    """Rows that a site reads, added to its moments; those of a weight that is used step by step are put together first.

    Args:
        parts: Features, in the order of the flattened weight, whose moments are taken together.
        places: For every feature its place in the rows; None where all are taken together, in the order of the rows.
        basis: Taken of the kernel's positions before; None: the positions themselves.
        in_steps: Whether the weight is used several times in a pass.
    """

    def __init__(self, parts: Sequence[Tensor], places: Tensor | None, basis: Tensor | None, *, in_steps: bool) -> None:
        self.parts, self.basis = parts, basis
        self._places, self._in_steps = places, in_steps
        self._shares = [] if places is None else [places[part] for part in parts]
        self._takers: Sequence[Callable[[Tensor], None]] = ()
        self._waiting: list[Tensor] = []

    def begin(self, takers: Sequence[Callable[[Tensor], None]], *, apart: bool = False) -> None:
        """Names what takes the features of each part of each group; or all of each group, and takes them `apart`."""
        self._takers = takers
        if apart and self._places is not None:
            self._shares = [self._places]

    def add(self, rows: Tensor) -> None:
        """Adds rows, shape [groups, rows, inputs]."""
        if not self._in_steps:
            self._take(rows)
            return
        self._waiting.append(rows.clone())
        if sum(some.shape[1] for some in self._waiting) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Adds what waits."""
        if self._waiting:
            self._take(torch.cat(self._waiting, 1))
            self._waiting = []

    def _take(self, rows: Tensor) -> None:
        rows = _rotate_patches(rows, self.basis)
        pieces = (own[:, share] for own in rows for share in self._shares) if self._shares else rows
        for take, some in zip(self._takers, pieces, strict=True):
            take(some)


def _rotate_patches(patches: Tensor, basis: Tensor | None) -> Tensor:
    """Rows of `patches_of` with a basis taken of their kernel positions; shape [groups, rows, features] as before."""
    if basis is None:
        return patches
    rotated: Tensor = basis.mT.to(patches) @ patches.unflatten(-1, (len(basis), -1))
    return rotated.flatten(-2)
