"""MIPP and its peers behind one interface: `plan(task, budget) -> PruningPlan`.

One file and one citation per method; a card in docs/methods/ says what differs from the source.
"""

from collections.abc import Callable

from mipp.methods.base import Method, OneShot, Task
from mipp.methods.magnitude import L1, L2
from mipp.methods.mipp import MIPP
from mipp.methods.random import Random

__all__ = ["L1", "L2", "MIPP", "Method", "OneShot", "Random", "Task", "all"]


def all() -> dict[str, Callable[[], Method]]:
    """Every method by name; each constructs without arguments."""
    return {"mipp": MIPP, "random": Random, "l1": L1, "l2": L2}
