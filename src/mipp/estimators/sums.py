"""Information about several readers at once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mipp.estimators.base import Information, Nearby, Separable
from mipp.estimators.neighbours import Floats, Neighbours


class SumInformation:
    """The sum of what the same nodes carry to several readers (in nats; shared information counts for each)."""

    def __init__(self, parts: Sequence[Information]) -> None:
        self.parts = parts
        self.num_nodes = parts[0].num_nodes

    def marginal(self) -> Tensor:
        return torch.stack([p.marginal() for p in self.parts]).sum(0)

    def losses(self) -> Tensor:
        return torch.stack([p.losses() for p in self.parts]).sum(0)

    def loss(self, node: int) -> float:
        return sum(p.loss(node) for p in self.parts)

    def remove(self, node: int) -> None:
        for part in self.parts:
            part.remove(node)

    def remove_all(self, nodes: Sequence[int]) -> None:
        for part in self.parts:
            if isinstance(part, Separable):
                part.remove_all(nodes)
            else:
                for node in nodes:
                    part.remove(node)

    def among(self, nodes: Tensor) -> "SumNearby | None":
        found = [part.among(nodes) for part in self.parts if isinstance(part, Separable)]
        near = [part for part in found if part is not None]
        if len(near) < len(self.parts):
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
