"""Tensors under a memory limit, progress, processes, devices. Knows errors only."""
