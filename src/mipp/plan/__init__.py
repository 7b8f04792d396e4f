"""Budgets, the number of nodes that each group keeps under them, and the plan that names these nodes."""
