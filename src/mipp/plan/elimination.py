"""Orders of removal, from a set function alone: the information that the kept nodes carry."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipp.errors import MippError, quote
from mipp.estimators.base import Additive, Information, Nearby, Separable

Order = Literal["greedy", "mi", "loss"]
Floats = NDArray[np.float64]
Progress = Callable[[list[int]], Iterable[int]]

_NEAR = 64  # nodes looked at by themselves, at most
_SHARE = 1 / 16  # of the nodes left, that go before all losses are computed again
_SCARCITY = 0.3
_LEAST = 1e-9
_MOST_CONFIDENCES = 52  # of float64


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

    def sensitivity(self) -> tuple[float, ...]:
        """The share of the information that none, a tenth, two tenths, ... and all of the nodes carry, 11 numbers.

        Empty where the nodes carry nothing, or more than can be told.
        """
        whole, nodes = self.loss[-1], len(self.order)
        if not 0 < whole < math.inf:
            return ()
        return tuple(1 - self.loss[nodes - round(nodes * tenth / 10)] / whole for tenth in range(11))


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
    if not isinstance(number, Integral) or not 0 <= number <= _MOST_CONFIDENCES:
        raise MippError(f"number is {quote(number)}; expected 0 to {_MOST_CONFIDENCES}: more cannot be told from 1.")
    return tuple(1 - 2.0 ** -(n + 1) for n in range(int(number)))


def backward_elimination(information: Information, order: Order = "greedy", progress: Progress = iter) -> Elimination:
    """Removes node after node until none is left.

    Args:
        information: The set function; it is used up.
        order: "greedy" removes the node whose loss is least at that moment and breaks ties by marginal information;
            "mi" goes through the nodes once, least marginal information first, and "loss" those first whose loss is
            least while all others are there.
        progress: Wraps the steps to show how far it is.
    """
    if isinstance(information, Additive) and (values := information.values()) is not None:
        return _eliminate_in_order(information, values, progress)
    marginal = information.marginal()
    once = _ranked_once(information, marginal, order)
    removed: list[int] = []
    loss = [0.0]
    turns = iter(progress(torch.argsort(marginal, stable=True).tolist()))
    while len(removed) < information.num_nodes:
        for node, lost in _next_to_go(information, marginal, removed, once):
            loss.append(loss[-1] + max(lost, 0.0))
            removed.append(node)
            next(turns, None)
    next(turns, None)  # a bar that counts sees its end
    return Elimination(tuple(removed), tuple(loss))


def _eliminate_in_order(information: Additive, values: Tensor, progress: Progress) -> Elimination:
    """Removes nodes that bring their own values whatever the others do, the least first."""
    lost, order = values.sort(stable=True)
    removed = list(progress(order.tolist()))
    information.remove_all(removed)
    return Elimination(tuple(removed), (0.0, *lost.clamp_min(0).cumsum(0).tolist()))


def elimination_along(information: Information, order: Sequence[int]) -> Elimination:
    """Removes all nodes in a given order.

    Args:
        information: The set function; it is used up.
        order: Nodes, first removed first.
    """
    loss = [0.0]
    for node in order:
        loss.append(loss[-1] + max(information.loss(node), 0.0))
        information.remove(node)
    return Elimination(tuple(order), tuple(loss))


def _ranked_once(information: Information, marginal: Tensor, order: Order) -> Tensor | None:
    """Nodes in the order in which a single pass goes through them; None where it is found anew after each removal."""
    if order == "greedy":
        return None
    return torch.argsort(marginal, stable=True) if order == "mi" else _by_loss(information.losses(), marginal)


def _next_to_go(
    information: Information, marginal: Tensor, gone: Sequence[int], once: Tensor | None
) -> list[tuple[int, float]]:
    """Removes the next nodes; returns them with what each lost.

    Information that can look at a few nodes by themselves is asked for the losses of all nodes once; then the nodes
    with the least are removed among themselves, the losses of these being computed anew each time, as long as they lose
    no more than the least of the others did. Where no others are left, that goes on to the last, and nothing is asked.
    """
    losses, number = torch.zeros_like(marginal), len(marginal) - len(gone)
    whole = once is None and number <= _NEAR and isinstance(information, Separable)
    if whole:
        left = _without(gone, len(marginal))
    elif once is not None:
        left = once[len(gone) :]
    else:
        losses = information.losses()
        left = _by_loss(losses, marginal)[:number]
    most = number if number <= _NEAR else max(int(_SHARE * number), 1)
    few = left[: _NEAR if once is not None else min(4 * most, _NEAR)]
    near = information.among(few) if isinstance(information, Separable) else None
    if near is None:
        node = _least(information.losses(), marginal) if whole else int(left[0])
        lost = information.loss(node)
        information.remove(node)
        return [(node, lost)]
    assert isinstance(information, Separable)
    if once is not None:
        places = [(place, _take(near, place)) for place in range(len(few))]
    else:
        bound = float(losses[left[len(few)]]) if len(left) > len(few) else math.inf
        places = _go_among(near, marginal[few].numpy(), bound, min(most, len(few)))
    found = [(int(few[place]), lost) for place, lost in places]
    information.remove_all([node for node, _ in found])
    return found


def _without(gone: Sequence[int], number: int) -> Tensor:
    """The nodes that are left of so many, ascending."""
    left = torch.ones(number, dtype=torch.bool)
    left[list(gone)] = False
    return left.nonzero().flatten()


def _go_among(near: Nearby, marginal: Floats, bound: float, most: int) -> list[tuple[int, float]]:
    """Removes up to `most` of a few nodes by themselves, at least one, while the next loses no more than `bound`."""
    found: list[tuple[int, float]] = []
    left = np.ones(len(marginal), bool)
    while len(found) < most:
        losses = np.where(left, near.losses(), np.inf)
        place, largest = int(losses.argmin()), losses[left].max()
        if not np.isfinite(largest):
            largest = np.where(np.isfinite(losses), losses, 0).max()
        tied = losses <= losses[place] + 1e-9 * max(largest, -losses[place], 0.0)
        if np.count_nonzero(tied) != 1:
            place = int(np.where(tied, marginal, np.inf).argmin())
        if found and losses[place] > bound:
            break
        found.append((place, float(losses[place])))
        near.remove(place)
        left[place] = False
    return found


def _take(near: Nearby, place: int) -> float:
    lost = near.loss(place)
    near.remove(place)
    return lost


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
            X1 = X2 + X3), and "loss" those first whose loss is least while all others are there; "greedy" tests the
            least informative of those that remain until one stays.
        margin: It has to add more than this many nats.
        min_keep: It stops when only this many nodes are left.
        progress: Wraps the steps to show how far it is.

    Returns:
        The nodes that stay, ascending. Source: MIPP, arXiv 2411.00147, Algorithm 2.
    """
    marginal = information.marginal()
    kept = set(range(information.num_nodes))
    once = _ranked_once(information, marginal, order)
    for node in progress((torch.argsort(marginal, stable=True) if once is None else once).tolist()):
        if len(kept) <= min_keep:
            break
        if once is None:
            node = _least(information.losses(), marginal)
        if information.confidence(node, margin) < confidence:
            kept.remove(node)
            information.remove(node)
        elif once is None:
            break
    return tuple(sorted(kept))


def _by_loss(losses: Tensor, marginal: Tensor) -> Tensor:
    """Nodes by loss, smallest first; those that tie with the smallest by marginal."""
    by_marginal = torch.argsort(marginal, stable=True)
    key = torch.where(losses <= _tie(losses), -torch.inf, losses)
    return by_marginal[torch.argsort(key[by_marginal], stable=True)]


def _least(losses: Tensor, marginal: Tensor) -> int:
    """The smallest loss; among equals (to 1e-9 of the largest) the smallest marginal, then the first."""
    return int(torch.where(losses <= _tie(losses), marginal, torch.inf).argmin())


def _tie(losses: Tensor) -> Tensor:
    """The largest loss that counts as equal to the smallest."""
    finite = losses[torch.isfinite(losses)]
    return losses.min() + (1e-9 * float(finite.abs().max()) if len(finite) else 0.0)
