"""Copies of models, names of their tensors, and modules that need care: attention, cells, weight norm, wrappers.

Nothing here knows of graphs. Importing it registers the adapters of our own layers.
"""

from mipp.modules import multihead as multihead
