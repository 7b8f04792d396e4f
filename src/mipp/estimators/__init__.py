"""Estimators of I(X_S; Y) for a shrinking set of nodes. They know matrices, and nothing of models.

`Gaussian`, `Surrogate` and `MLP` are settings; called on `Samples` they return an `Information`.
"""

from mipp.estimators.base import (
    ESTIMATORS,
    Estimator,
    Information,
    Nearby,
    Samples,
    Separable,
    register,
)
from mipp.estimators.block_gaussian import IndependentInformation, apart, by_node, variances_apart
from mipp.estimators.call import estimate, make_estimator, memorised
from mipp.estimators.closed_form import Gaussian
from mipp.estimators.features import Features
from mipp.estimators.gaussian import GaussianInformation, linear_information
from mipp.estimators.mlp import MLP, MLPInformation
from mipp.estimators.noise import with_drawn_noise
from mipp.estimators.sums import SumInformation
from mipp.estimators.surrogate import Surrogate, SurrogateInformation

__all__ = [
    "ESTIMATORS",
    "MLP",
    "Estimator",
    "Features",
    "Gaussian",
    "GaussianInformation",
    "IndependentInformation",
    "Information",
    "MLPInformation",
    "Nearby",
    "Samples",
    "Separable",
    "SumInformation",
    "Surrogate",
    "SurrogateInformation",
    "apart",
    "by_node",
    "estimate",
    "linear_information",
    "make_estimator",
    "memorised",
    "register",
    "variances_apart",
    "with_drawn_noise",
]
