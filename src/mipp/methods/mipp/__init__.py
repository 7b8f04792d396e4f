"""Mutual information preserving pruning: one package, since it measures in several ways."""

from mipp.methods.mipp.mipp import MIPP, NOISE

__all__ = ["MIPP", "NOISE"]
