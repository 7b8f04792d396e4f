"""The one interface of all estimators, and the samples that they are made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mipp.errors import CalibrationError


@runtime_checkable
class Information(Protocol):
    """I(X_S; Y) for a set S of nodes that shrinks from all of them to none, in nats."""

    num_nodes: int

    def marginal(self) -> Tensor:
        """I(X_i; Y) of every node by itself, shape [num_nodes]."""

    def losses(self) -> Tensor:
        """I(X_S; Y) - I(X_S without i; Y) for every node, shape [num_nodes]; infinite for nodes that are gone.

        Estimators that would have to be fitted anew for each node may give an upper bound here.
        """

    def loss(self, node: int) -> float:
        """The same for one node that is still there, as exactly as the estimator can."""

    def remove(self, node: int) -> None:
        """Takes a node out of S."""

    def confidence(self, node: int, margin: float = 0.0) -> float:
        """The confidence that the loss of this node exceeds `margin` nats, from 0 to 1."""

    def total(self) -> float:
        """I(X_S; Y) of what is still there, features in no node included."""


class Nearby(Protocol):
    """Information of a few nodes while all others stay as they are."""

    def loss(self, node: int) -> float:
        """Information lost with one of the nodes, by its place among them."""

    def losses(self) -> ArrayLike:
        """The same for each of the nodes, shape [nodes]; any number for those that are gone."""

    def remove(self, node: int) -> None:
        """Takes one of the nodes away, by its place among them."""


@runtime_checkable
class Separable(Protocol):
    """Information that can look at a few nodes by themselves, and lose several at once: both save passes over all."""

    def among(self, nodes: Tensor) -> Nearby | None:
        """A few nodes that are still there, by themselves; None where that cannot be had after all."""

    def remove_all(self, nodes: Sequence[int]) -> None:
        """Takes several nodes out of S."""


@runtime_checkable
class Additive(Protocol):
    """Information that may be a sum over nodes: the order of removals is then known at once."""

    def values(self) -> Tensor | None:
        """The nats of each node, whatever the others do, shape [num_nodes]; None where they depend on these."""

    def remove_all(self, nodes: Sequence[int]) -> None:
        """Takes several nodes out of S."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Joint samples of the nodes of a group and of their target.

    Attributes:
        x: Features, shape [rows, features].
        y: Targets, shape [rows, targets]; or classes, integers of shape [rows].
        blocks: Features of every node, shape [nodes, features per node]. Features in no block are always available.
        images: Which sample of the data each row comes from, shape [rows]; rows of one image are not independent.
        noise: Noise on each target relative to its variance, shape [targets]; read by the Gaussian estimator.
        weights: How many times each row counts, shape [rows]; None is once. Read by estimators that need moments only.
    """

    x: Tensor
    y: Tensor
    blocks: Tensor
    images: Tensor
    noise: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.x) < 2:
            raise CalibrationError(f"There is {len(self.x)} sample to estimate information from; expected 2 or more.")

    @classmethod
    def of(cls, x: Tensor, y: Tensor, noise: float = 0.0) -> "Samples":
        """Independent rows in which each feature is a node."""
        blocks = torch.arange(x.shape[1])[:, None]
        return cls(x, y, blocks, torch.arange(len(x)), torch.full((y.shape[1] if y.ndim == 2 else 1,), noise))


Estimator = Callable[[Samples, torch.Generator], Information]
"""Makes an estimate from samples; the generator is the only source of randomness.

One whose attribute `needs_moments_only` is true reads nothing but second moments, which a single pass gives for all
groups.
"""
ESTIMATORS: dict[str, Callable[[], Estimator]] = {}
"""Every estimator by name; each constructs without arguments."""
_Made = TypeVar("_Made", bound=Callable[[], Estimator])


def register(name: str) -> Callable[[_Made], _Made]:
    """Makes an estimator known by a name."""

    def add(estimator: _Made) -> _Made:
        ESTIMATORS[name] = estimator
        return estimator

    return add


def classes_of(y: Tensor) -> Tensor:
    """Classes counted from zero, shape [rows].

    Raises:
        CalibrationError: All rows are of one class.
    """
    numbers: Tensor
    found, numbers = torch.unique(y, return_inverse=True)
    if len(found) < 2:
        raise CalibrationError(
            f"All {len(y)} samples are of class {found[0].item()}; nothing can be learnt about a class that does not "
            "vary. Pass samples of two classes or more."
        )
    return numbers
