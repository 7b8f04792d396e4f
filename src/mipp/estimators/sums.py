"""Information about several readers at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mipp.estimators.base import Information


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

    def confidence(self, node: int, margin: float = 0.0) -> float:
        """Bonferroni over the readers: sure that at least one of them loses more than the margin."""
        return max(0.0, 1 - len(self.parts) * (1 - max(p.confidence(node, margin) for p in self.parts)))

    def total(self) -> float:
        return sum(p.total() for p in self.parts)
