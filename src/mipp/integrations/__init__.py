"""Pruning inside the training loops and trackers of others: optimiser state carried over the cut, numbers logged."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mipp.integrations.rounds import Rounds
from mipp.integrations.schedule import Schedule
from mipp.runtime.requirements import require

if TYPE_CHECKING:
    from mipp.integrations.lightning import LightningPruning
    from mipp.integrations.trainer import TrainerPruning

__all__ = ["LightningPruning", "Rounds", "Schedule", "TrainerPruning"]

_FOUND_IN = {
    "LightningPruning": ("mipp.integrations.lightning", "lightning"),
    "TrainerPruning": ("mipp.integrations.trainer", "transformers"),
}


def __getattr__(name: str) -> Any:
    """Imports a callback when it is first used: each needs a package that is no requirement of mipp."""
    if name not in _FOUND_IN:
        raise AttributeError(f"module 'mipp.integrations' has no attribute '{name}'")
    module, package = _FOUND_IN[name]
    require(package, name)
    return getattr(import_module(module), name)
