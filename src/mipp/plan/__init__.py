"""Budgets, the number of nodes that each group keeps under them, and the plan that names these nodes."""

from mipp.plan.allocation import Allocation, Unit, allocate, check_budget, kinds
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan, heads, load_plan, look_up, shapes

__all__ = [
    "Allocation",
    "Budget",
    "PruningPlan",
    "Unit",
    "allocate",
    "check_budget",
    "heads",
    "kinds",
    "load_plan",
    "look_up",
    "shapes",
]
