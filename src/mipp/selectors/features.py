"""Feature selection for scikit-learn: keep the columns that say something about the target that the others do not."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipp.errors import CalibrationError, MippError, MissingRequirementError, few
from mipp.estimators import ESTIMATORS, Estimator, Samples, estimate, make_estimator, memorised
from mipp.plan.elimination import Order, backward_elimination, terc
from mipp.selectors.number import count_features

try:
    from sklearn.base import BaseEstimator
    from sklearn.feature_selection import SelectorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise MissingRequirementError(
        "mipp.FeatureSelector needs scikit-learn, which cannot be imported; expected it to be installed: "
        'pip install "torch-mipp[demo]"'
    ) from error

_MEMORISED = (
    "All columns together say {:.2f} nats of y on the samples held out, which is less than none: the estimator has "
    "memorised its own, and what it says of single columns means nothing. Pass more samples, or an estimator that fits "
    "fewer steps or stops early."
)
_LEAST_ROWS = 3
"""Rows of each value, on average, from which on whole numbers are classes."""


class FeatureSelector(SelectorMixin, BaseEstimator):
    """Selects columns by TERC, as MIPP selects nodes: X are the nodes and y is the next layer.

    >>> x = np.random.default_rng(0).normal(size=(200, 4))
    >>> FeatureSelector().fit(x, x[:, 0] - x[:, 2]).get_support(indices=True).tolist()
    [0, 2]

    Args:
        estimator: "gaussian", "surrogate", "mlp", or one of `mipp.estimators.Gaussian`, `Surrogate` and `MLP` with
            settings. Only the last two see dependence on several columns at once, such as XOR.
        confidence: With "auto": a column stays if it is at least this sure that it adds information; 0.95 by default.
        num_features: Columns to keep: how many, which fraction of them (a float), or "auto", by confidence.
        order: "greedy" removes the column that the others make up for best, and looks again; "mi" goes through the
            columns once, least informative first, and keeps copies if it keeps a number.
        margin: With "auto": a column has to add more than this many nats.
        random_state: Seed of the perceptrons, and of drawing rows by weight for them.

    Attributes:
        information_: I(X_i; y) of every column by itself, in nats, shape [columns].
        support_: Whether each column is kept, shape [columns]; at least one is.
    """

    def __init__(
        self,
        estimator: str | Estimator = "gaussian",
        *,
        confidence: float | None = None,
        num_features: int | float | Literal["auto"] = "auto",
        order: Order = "greedy",
        margin: float = 0.0,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.estimator = estimator
        self.confidence = confidence
        self.num_features = num_features
        self.order = order
        self.margin = margin
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "FeatureSelector":
        """Selects the columns of X, shape [samples, columns], that inform about y.

        Whole numbers in y are classes, as everywhere in scikit-learn, unless most of them occur once or twice: counts
        and rounded measurements are numbers, like all others, in one or several columns.

        Args:
            X: Numbers; an array, or a frame of pandas or polars.
            y: The target.
            sample_weight: How many times each row counts, shape [samples]. The test takes their sum as the number of
                samples, so weights of another kind should be scaled to a mean of one.

        Raises:
            ValueError: The data or the settings are not of this form, or there are too few samples for the test.
        """
        X, y = validate_data(
            self,
            X,
            y,
            multi_output=True,
            y_numeric=False,
            ensure_min_samples=2,
            dtype=np.float64,
            ensure_all_finite=False,
        )
        names = getattr(self, "feature_names_in_", range(X.shape[1]))
        _refuse_missing(X, [str(name) for name in names])
        self._check_settings(X.shape[1])
        try:
            self.support_ = self._select(_samples(X, y, sample_weight), X.shape[1])
        except CalibrationError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_settings(self, columns: int) -> None:
        number = self.num_features
        if number != "auto":
            if self.confidence is not None:
                raise ValueError(f"confidence={self.confidence} and num_features={number}: expected only one of them.")
            if count_features(number, columns) is None:
                raise ValueError(
                    f"num_features is {number!r}; X has {columns} columns, expected 1 to {columns}, a fraction of them "
                    "such as 0.5, or 'auto'."
                )
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; expected a number in [0.5, 1).")
        if self.order not in get_args(Order):
            raise ValueError(f"order is {self.order!r}; expected {' or '.join(map(repr, get_args(Order)))}.")
        if isinstance(self.estimator, str) and self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is {self.estimator!r}; expected one of {', '.join(ESTIMATORS)}.")

    def _select(self, samples: Samples, columns: int) -> NDArray[np.bool_]:
        generator = torch.Generator().manual_seed(check_random_state(self.random_state).randint(2**31 - 1))
        estimator = make_estimator(self.estimator)
        if not getattr(estimator, "needs_moments_only", False):
            samples = _draw_by_weight(samples, generator)
        information = estimate(estimator, samples, generator)
        self.information_ = information.marginal().numpy()
        if (nats := memorised(information)) is not None:
            warnings.warn(_MEMORISED.format(nats), stacklevel=3)
        number = count_features(self.num_features, columns)
        if number is None:
            confidence = 0.95 if self.confidence is None else self.confidence
            kept = terc(information, confidence, self.order, margin=self.margin, min_keep=1)
        else:
            kept = backward_elimination(information, self.order).kept(number)
        return np.isin(np.arange(columns), kept)

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _refuse_missing(X: NDArray[np.float64], names: Sequence[str]) -> None:
    missing = np.nonzero(~np.isfinite(X).all(0))[0]
    if len(missing):
        lacking = few(names[int(column)] for column in missing)
        rows = int((~np.isfinite(X)).any(1).sum())
        raise ValueError(
            f"X holds NaN or infinity in the columns {lacking}, in {rows} of {len(X)} rows; expected numbers. Put a "
            "sklearn.impute.SimpleImputer before the selector, or leave these rows or columns out."
        )


def _samples(X: NDArray[np.float64], y: NDArray[Any], sample_weight: Any) -> Samples:
    """Samples of the rows whose weight is not zero."""
    weights = None
    if sample_weight is not None:
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        X, y, weights = X[weights > 0], y[weights > 0], torch.tensor(weights[weights > 0])
    return replace(Samples.of(torch.tensor(X), _target(y)), weights=weights)


def _draw_by_weight(samples: Samples, generator: torch.Generator) -> Samples:
    """As many rows, each drawn as often as its weight asks, for estimators that cannot weigh; copies stay together."""
    if samples.weights is None:
        return samples
    rows = torch.multinomial(samples.weights, len(samples.x), replacement=True, generator=generator)
    return replace(samples, x=samples.x[rows], y=samples.y[rows], images=rows, weights=None)


def _target(y: NDArray[Any]) -> Tensor:
    """Classes as integers from zero, numbers as [samples, targets]."""
    if type_of_target(y) in ("binary", "multiclass"):
        found, classes = np.unique(y, return_inverse=True)
        if y.dtype.kind not in "iuf" or len(y) >= _LEAST_ROWS * len(found):
            return torch.tensor(classes.reshape(-1))
    try:
        return torch.tensor(np.asarray(y, np.float64).reshape(len(y), -1))
    except ValueError as error:
        raise MippError(f"y holds {y.dtype}; expected classes or numbers.") from error
