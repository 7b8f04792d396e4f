"""Results of runs as plain data, and what is counted in them."""

from typing import Any

from mipp.plan.registry import CONSTRAINTS

COSTS = tuple(name for name, constraint in CONSTRAINTS.items() if not constraint.is_estimated)
"""Constraints that are counted exactly, and told as the fraction kept."""
Row = dict[str, Any]
"""The result of one run."""
