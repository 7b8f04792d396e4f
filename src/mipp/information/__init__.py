"""Estimators of I(X_S; Y) for a shrinking set of nodes. They know matrices, and nothing of models."""

from mipp.information.apart import IndependentInformation, apart
from mipp.information.gaussian import GaussianInformation, SumInformation

__all__ = ["GaussianInformation", "IndependentInformation", "SumInformation", "apart"]
