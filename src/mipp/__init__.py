"""Structured pruning for PyTorch that preserves the information each layer passes to the next."""
