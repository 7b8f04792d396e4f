"""Structured pruning for PyTorch that preserves the information each layer passes to the next.

    model + example -> graph -> node groups -> activations -> moments -> estimators -> nats lost per removal
      -> selection -> order of removal -> allocation -> plan -> surgery -> smaller model
      -> compensation -> refitted model -> report, save, load

`prune` does all of it; every arrow is a module.
"""

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
from mipp.pipeline import Result, inspect, prune
from mipp.plan import Budget, PruningPlan, load_plan
from mipp.selection import confidence_schedule
from mipp.storage import load
from mipp.surgery import apply, mask

__all__ = [
    "Budget",
    "Calibration",
    "CalibrationError",
    "InfeasibleBudgetError",
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
    "inspect",
    "load",
    "load_plan",
    "mask",
    "methods",
    "prune",
]
