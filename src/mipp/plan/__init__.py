"""What stays: budgets, how many nodes each group keeps under them, and the plan that says which."""
