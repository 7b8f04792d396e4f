"""Orders of removal, from a set function alone: the information that the kept nodes carry."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mipp.estimators import Information

Order = Literal["greedy", "mi"]
Progress = Callable[[list[int]], Iterable[int]]

_SCARCITY = 0.3
_LEAST = 1e-9


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


def with_scarcity(elimination: Elimination) -> Elimination:
    """The same removals, at losses that rise beyond the information lost as a group runs out of it.

    A loss l out of T costs l + s (T ln(T / (T - l)) - l), with s = 0.3: what it is where little is gone, and beyond any
    price where all of it would be. Along a chain of layers what survives is a product, of which one factor of zero is
    too much; a plain sum of losses does not know that.
    """
    whole = elimination.loss[-1]
    if not 0 < whole < math.inf:
        return elimination

    def scarce(loss: float) -> float:
        share = min(loss / whole, 1 - _LEAST)
        return loss + _SCARCITY * max(-whole * math.log1p(-share) - loss, 0.0)

    return Elimination(elimination.order, tuple(map(scarce, elimination.loss)))


def confidence_schedule(number: int = 20) -> tuple[float, ...]:
    """The paper's confidences 1 - 2^-(n+1): 0.5, 0.75, 0.875, ... (arXiv 2411.00147, appendix D.1).

    >>> confidence_schedule(3)
    (0.5, 0.75, 0.875)
    """
    return tuple(1 - 2.0 ** -(n + 1) for n in range(number))


def backward_elimination(information: Information, order: Order = "greedy", progress: Progress = iter) -> Elimination:
    """Removes node after node until none is left.

    Args:
        information: The set function; it is used up.
        order: "greedy" removes the node whose loss is least at that moment and breaks ties by marginal information;
            "mi" goes through the nodes once, least marginal information first.
        progress: Wraps the steps to show how far it is.
    """
    marginal = information.marginal()
    removed: list[int] = []
    loss = [0.0]
    for node in progress(torch.argsort(marginal, stable=True).tolist()):
        if order == "greedy":
            node = _least(information.losses(), marginal)
        loss.append(loss[-1] + max(information.loss(node), 0.0))
        removed.append(node)
        information.remove(node)
    return Elimination(tuple(removed), tuple(loss))


def terc(
    information: Information,
    confidence: float,
    order: Order = "mi",
    *,
    margin: float = 0.0,
    min_keep: int = 0,
    progress: Progress = iter,
) -> tuple[int, ...]:
    """Transfer entropy redundancy criterion: drops every node that adds nothing to the nodes still there.

    Args:
        information: The set function; the nodes that go are removed from it.
        confidence: A node stays if it is at least this sure that it adds information.
        order: "mi" tests each node once, least marginal information first (the order that keeps {X1} where
            X1 = X2 + X3); "greedy" tests the least informative of those that remain until one stays.
        margin: It has to add more than this many nats.
        min_keep: It stops when only this many nodes are left.
        progress: Wraps the steps to show how far it is.

    Returns:
        The nodes that stay, ascending. Source: MIPP, arXiv 2411.00147, Algorithm 2.
    """
    marginal = information.marginal()
    kept = set(range(information.num_nodes))
    for node in progress(torch.argsort(marginal, stable=True).tolist()):
        if len(kept) <= min_keep:
            break
        if order == "greedy":
            node = _least(information.losses(), marginal)
        if information.confidence(node, margin) < confidence:
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
