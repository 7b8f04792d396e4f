"""Which nodes to remove first, knowing nothing but a set function: the information the kept nodes carry."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Order = Literal["greedy", "mi"]


class Information(Protocol):
    """I(X_S; Y) for a set S of nodes that shrinks from all of them to none, in nats."""

    num_nodes: int

    def marginal(self) -> Tensor:
        """I(X_i; Y) of every node by itself, shape [num_nodes]."""

    def losses(self) -> Tensor:
        """I(X_S; Y) - I(X_S without i; Y) for every node, shape [num_nodes]; infinite for nodes that are gone."""

    def remove(self, node: int) -> None:
        """Takes a node out of S."""

    def confidence(self, node: int) -> float:
        """How sure it is that the loss of this node is not zero, from 0 to 1."""


@dataclass(frozen=True)
class Elimination:
    """The order in which the nodes of one group go.

    Attributes:
        order: Nodes, first removed first, shape [num_nodes].
        loss: Information lost when the first k of them are gone, in nats, shape [num_nodes + 1].
    """

    order: tuple[int, ...]
    loss: tuple[float, ...]

    def kept(self, number: int) -> tuple[int, ...]:
        """The `number` nodes that go last, ascending."""
        return tuple(sorted(self.order[len(self.order) - number :]))


def backward_elimination(information: Information, order: Order = "greedy") -> Elimination:
    """Removes node after node until none is left.

    Args:
        information: The set function; it is used up.
        order: "greedy" removes the node whose loss is least at that moment and breaks ties by marginal information;
            "mi" goes through the nodes once, least marginal information first.
    """
    marginal = information.marginal()
    removed: list[int] = []
    loss = [0.0]
    ascending = torch.argsort(marginal, stable=True).tolist()
    for step in range(information.num_nodes):
        losses = information.losses()
        node = ascending[step] if order == "mi" else _least(losses, marginal)
        loss.append(loss[-1] + max(float(losses[node]), 0.0))
        removed.append(node)
        information.remove(node)
    return Elimination(tuple(removed), tuple(loss))


def terc(information: Information, confidence: float, order: Order = "mi") -> tuple[int, ...]:
    """Transfer entropy redundancy criterion: drops every node that adds nothing to the nodes still there.

    Args:
        information: The set function; it is used up.
        confidence: A node stays if it is at least this sure that it adds information.
        order: "mi" tests each node once, least marginal information first (the order that keeps {X1} where
            X1 = X2 + X3); "greedy" tests the least informative of those that remain until one stays.

    Returns:
        The nodes that stay, ascending. Source: MIPP, arXiv 2411.00147, Algorithm 2.
    """
    marginal = information.marginal()
    kept = set(range(information.num_nodes))
    for node in torch.argsort(marginal, stable=True).tolist():
        if order == "greedy":
            node = _least(information.losses(), marginal)
        if information.confidence(node) < confidence:
            kept.remove(node)
            information.remove(node)
        elif order == "greedy":
            break
    return tuple(sorted(kept))


def _least(losses: Tensor, marginal: Tensor) -> int:
    """The smallest loss; among equals (to 1e-9 of the largest) the smallest marginal, then the first."""
    finite = losses[torch.isfinite(losses)]
    tolerance = 1e-9 * float(finite.abs().max()) if len(finite) else 0.0
    tied = losses <= losses.min() + tolerance
    return int(torch.where(tied, marginal, torch.inf).argmin())
