"""Tensors under a memory limit, progress, processes, devices, and whose mistake an error is. Knows errors only."""
