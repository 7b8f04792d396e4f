"""Pruning inside the training loops of others: optimiser state carried over the cut."""
