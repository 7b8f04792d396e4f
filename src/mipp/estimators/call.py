"""Estimators as a caller names or gives them, and what they return."""

import torch

from mipp.errors import MippError, quote
from mipp.estimators.base import ESTIMATORS, Estimator, Information, Samples
from mipp.runtime.mistakes import border
from mipp.runtime.settings import check_function

_ROUNDING = 1e-9


def make_estimator(estimator: str | Estimator) -> Estimator:
    """The estimator of a name, with its default settings; or the one that is given.

    Raises:
        MippError: It is neither, or takes other arguments than samples and a generator.
    """
    if isinstance(estimator, str) and estimator in ESTIMATORS:
        return ESTIMATORS[estimator]()
    if type(estimator) in ESTIMATORS.values():  # of ours: looking at the signature takes a tenth of a small fit
        return estimator  # type: ignore[return-value]
    if not callable(estimator) or isinstance(estimator, type):
        raise MippError(
            f"estimator={quote(estimator)} is unknown; expected {', '.join(map(repr, ESTIMATORS))}, or settings such "
            "as mipp.estimators.MLP(hidden=(64, 64))."
        )
    check_function("estimator", estimator, "samples", "generator")
    return estimator


@border
def estimate(estimator: str | Estimator, samples: Samples, generator: torch.Generator) -> Information:
    """The information that samples hold.

    Raises:
        MippError: An estimator of the caller's returned something else.
    """
    found = make_estimator(estimator)(samples, generator)
    if not isinstance(found, Information):
        raise MippError(
            f"estimator(samples, generator) returned a {type(found).__name__}; expected an object with num_nodes, "
            "marginal(), losses(), loss(), remove(), confidence() and total(), such as mipp.estimators.Gaussian() "
            "returns."
        )
    return found


def memorised(information: Information) -> float | None:
    """The nats that an estimator finds in samples held out where these are fewer than none, or None.

    Information is never negative; what perceptrons explain of samples that they have not seen is, where they have
    memorised their own.
    """
    nats = information.total()
    return nats if nats < -_ROUNDING else None
