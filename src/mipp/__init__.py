"""Structured pruning for PyTorch that preserves the information each layer passes to the next.

    model + example -> graph -> node groups -> activations -> moments -> estimators -> nats lost per removal
      -> selection -> order of removal -> allocation -> plan -> surgery -> smaller model
      -> compensation -> refitted model -> report, save, load

`prune` does all of it; every arrow is a module.
"""

import random
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mipp.errors import (
    CalibrationError,
    CheckpointError,
    InfeasibleBudgetError,
    MippError,
    MissingRequirementError,
    PlanMismatchError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from mipp import estimators, methods
    from mipp import export as export
    from mipp import grid as grid
    from mipp import integrations as integrations
    from mipp import report as report
    from mipp import zoo as zoo
    from mipp.data.calibration import Calibration
    from mipp.integrations.loggers import log_report
    from mipp.integrations.optimizers import carry_over, carry_over_average
    from mipp.integrations.schedule import Schedule
    from mipp.pipeline.prune import Result, frontier, information, inspect, prune
    from mipp.plan.budget import Budget
    from mipp.plan.elimination import confidence_schedule
    from mipp.plan.plan import PruningPlan, load_plan
    from mipp.refit.settings import Distillation, Refit
    from mipp.selectors.features import FeatureSelector
    from mipp.selectors.pixels import InputSelection, select_inputs
    from mipp.storage.folder import load
    from mipp.storage.hugging_face import from_pretrained, save_pretrained
    from mipp.surgery.cut import apply
    from mipp.surgery.masked import mask

__all__ = [
    "Budget",
    "Calibration",
    "CalibrationError",
    "CheckpointError",
    "Distillation",
    "FeatureSelector",
    "InfeasibleBudgetError",
    "InputSelection",
    "MippError",
    "MissingRequirementError",
    "PlanMismatchError",
    "PruningPlan",
    "Refit",
    "Result",
    "Schedule",
    "UnsupportedModelError",
    "apply",
    "carry_over",
    "carry_over_average",
    "confidence_schedule",
    "estimators",
    "from_pretrained",
    "frontier",
    "information",
    "inspect",
    "load",
    "load_plan",
    "log_report",
    "mask",
    "methods",
    "prune",
    "save_pretrained",
    "select_inputs",
]


_FOUND_IN = {
    "mipp": ("estimators", "export", "grid", "integrations", "methods", "report", "zoo"),
    "mipp.data.calibration": ("Calibration",),
    "mipp.refit.settings": ("Distillation", "Refit"),
    "mipp.selectors.features": ("FeatureSelector",),
    "mipp.integrations.loggers": ("log_report",),
    "mipp.integrations.optimizers": ("carry_over", "carry_over_average"),
    "mipp.integrations.schedule": ("Schedule",),
    "mipp.pipeline.prune": ("Result", "frontier", "information", "inspect", "prune"),
    "mipp.selectors.pixels": ("InputSelection", "select_inputs"),
    "mipp.plan.budget": ("Budget",),
    "mipp.plan.plan": ("PruningPlan", "load_plan"),
    "mipp.plan.elimination": ("confidence_schedule",),
    "mipp.storage.folder": ("load",),
    "mipp.storage.hugging_face": ("from_pretrained", "save_pretrained"),
    "mipp.surgery.cut": ("apply",),
    "mipp.surgery.masked": ("mask",),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch takes seconds, and some names need an extra."""
    if name == "__version__":
        return version("torch-mipp")
    module = next((module for module, names in _FOUND_IN.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module 'mipp' has no attribute '{name}'")
    state = random.getstate()
    try:
        found = import_module(f"mipp.{name}") if module == "mipp" else getattr(import_module(module), name)
    finally:
        random.setstate(state)  # importing rich draws a random number
    globals()[name] = found  # so that this is done once
    return found
