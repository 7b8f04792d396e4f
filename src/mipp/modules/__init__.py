"""Copies of models, names of their tensors, and modules that need care: attention, cells, weight norm, wrappers.

Nothing here knows of graphs.
"""
