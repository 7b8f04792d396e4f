"""Structured pruning for PyTorch that preserves the information each layer passes to the next.

    model + example -> graph -> node groups -> activations -> moments -> estimators -> nats lost per removal
      -> selection -> order of removal -> allocation -> plan -> surgery -> smaller model
      -> compensation -> refitted model -> report, save, load

`prune` does all of it; every arrow is a module.
"""

from typing import TYPE_CHECKING, Any

from mipp import estimators, methods
from mipp.calibration import Calibration
from mipp.compensation import Refit
from mipp.errors import (
    CalibrationError,
    InfeasibleBudgetError,
    MippError,
    MissingRequirementError,
    PlanMismatchError,
    UnsupportedModelError,
)
from mipp.pipeline import Result, information, inspect, prune
from mipp.pixels import InputSelection, select_inputs
from mipp.plan import Budget, PruningPlan, load_plan
from mipp.selection import confidence_schedule
from mipp.storage import load
from mipp.surgery import apply, mask

if TYPE_CHECKING:
    from mipp.features import FeatureSelector

__all__ = [
    "Budget",
    "Calibration",
    "CalibrationError",
    "FeatureSelector",
    "InfeasibleBudgetError",
    "InputSelection",
    "MippError",
    "MissingRequirementError",
    "PlanMismatchError",
    "PruningPlan",
    "Refit",
    "Result",
    "UnsupportedModelError",
    "apply",
    "confidence_schedule",
    "estimators",
    "information",
    "inspect",
    "load",
    "load_plan",
    "mask",
    "methods",
    "prune",
    "select_inputs",
]


def __getattr__(name: str) -> Any:
    """Imports `FeatureSelector` when it is first used: it needs scikit-learn, which is an extra."""
    if name == "FeatureSelector":
        from mipp.features import FeatureSelector

        return FeatureSelector
    raise AttributeError(f"module 'mipp' has no attribute '{name}'")
