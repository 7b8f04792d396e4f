"""Pruned models in other formats, checked against the model."""

from mipp.export.formats import export

__all__ = ["export"]
