"""What stays: budgets, how many nodes each group keeps under them, and the plan that says which."""

from mipp.plan.allocation import Allocation, Unit, allocate, check_budget, kinds
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan, heads, known, load_plan, shapes

__all__ = [
    "Allocation",
    "Budget",
    "PruningPlan",
    "Unit",
    "allocate",
    "check_budget",
    "heads",
    "kinds",
    "known",
    "load_plan",
    "shapes",
]
