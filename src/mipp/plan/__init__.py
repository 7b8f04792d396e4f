"""Budgets, the number of nodes that each group keeps under them, and the plan that names these nodes.

Importing it registers the kinds of budgets.
"""

from mipp.plan import constraints as constraints
