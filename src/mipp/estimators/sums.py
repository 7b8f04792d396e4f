"""Information about several readers at once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mipp.estimators.base import Additive, Information, Nearby, Separable
from mipp.estimators.gaussian import GaussianInformation
from mipp.estimators.neighbours import Floats, Neighbours
from mipp.estimators.precisions import Remaining


class SumInformation:
    """The sum of what the same nodes carry to several readers (in nats; shared information counts for each).

    Args:
        parts: What they carry to each, used up from now on.
    """

    def __init__(self, parts: Sequence[Information]) -> None:
        self.parts = parts
        self.num_nodes = parts[0].num_nodes
        gaussian = [part for part in parts if isinstance(part, GaussianInformation)]
        others = [part for part in parts if not isinstance(part, GaussianInformation)]
        self._summands: list[Information | Remaining] = [*GaussianInformation.join(gaussian), *others]
        self._separable = [one for one in self._summands if isinstance(one, Separable)]
        self._whole = [one for one in self._summands if not isinstance(one, Separable)]

    def marginal(self) -> Tensor:
        return torch.stack([p.marginal() for p in self.parts]).sum(0)

    def losses(self) -> Tensor:
        return torch.stack([one.losses() for one in self._summands]).sum(0)

    def values(self) -> Tensor | None:
        found = [one.values() for one in self._summands if isinstance(one, Additive)]
        known = [values for values in found if values is not None]
        return torch.stack(known).sum(0) if len(known) == len(self._summands) else None

    def loss(self, node: int) -> float:
        return sum(one.loss(node) for one in self._summands)

    def remove(self, node: int) -> None:
        for one in self._summands:
            one.remove(node)

    def remove_all(self, nodes: Sequence[int]) -> None:
        for one in self._separable:
            one.remove_all(nodes)
        for whole in self._whole:
            for node in nodes:
                whole.remove(node)

    def among(self, nodes: Tensor) -> "SumNearby | None":
        if self._whole:
            return None
        near = [part for part in (one.among(nodes) for one in self._separable) if part is not None]
        if len(near) < len(self._summands):
            return None
        merged = Neighbours.merge([part for part in near if isinstance(part, Neighbours)])
        return SumNearby([*merged, *(part for part in near if not isinstance(part, Neighbours))])

    def confidence(self, node: int, margin: float = 0.0) -> float:
        """Bonferroni over the readers: sure that at least one of them loses more than the margin."""
        return max(0.0, 1 - len(self.parts) * (1 - max(p.confidence(node, margin) for p in self.parts)))

    def total(self) -> float:
        return sum(p.total() for p in self.parts)


class SumNearby:
    """The sum of what the same few nodes carry to several readers."""

    def __init__(self, parts: Sequence[Nearby]) -> None:
        self._parts = parts

    def loss(self, node: int) -> float:
        return sum(part.loss(node) for part in self._parts)

    def losses(self) -> Floats:
        first, *others = (np.asarray(part.losses()) for part in self._parts)
        found: Floats = sum(others, first)
        return found

    def remove(self, node: int) -> None:
        for part in self._parts:
            part.remove(node)
