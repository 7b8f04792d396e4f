"""Feature selection for scikit-learn: keep the columns that say something about the target that the others do not."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipp.errors import CalibrationError, MippError, MissingRequirementError
from mipp.estimators import ESTIMATORS, Estimator, Information, Samples, make_estimator
from mipp.plan.elimination import Order, backward_elimination, terc

try:
    from sklearn.base import BaseEstimator
    from sklearn.feature_selection import SelectorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import type_of_target
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingRequirementError(
        "mipp.FeatureSelector needs scikit-learn, which cannot be imported; expected it to be installed: "
        'pip install "torch-mipp[demo]"'
    ) from error


class FeatureSelector(SelectorMixin, BaseEstimator):
    """Selects columns by TERC, as MIPP selects nodes: X are the nodes and y is the next layer.

    >>> x = np.random.default_rng(0).normal(size=(200, 4))
    >>> FeatureSelector().fit(x, x[:, 0] - x[:, 2]).get_support(indices=True).tolist()
    [0, 2]

    Args:
        estimator: "gaussian", "surrogate", "mlp", or one of `mipp.estimators.Gaussian`, `Surrogate` and `MLP` with
            settings. Only the last two see dependence on several columns at once, such as XOR.
        confidence: A column stays if it is at least this sure that it adds information; 0.95 if neither is given.
        num_features: Instead of a confidence, keep this many.
        order: "mi" goes through the columns once, least informative first; "greedy" scores again after each removal.
        margin: With a confidence: a column has to add more than this many nats.
        random_state: Seed of the perceptrons.

    Attributes:
        information_: I(X_i; y) of every column by itself, in nats, shape [columns].
        support_: Whether each column is kept, shape [columns]; at least one is.
    """

    def __init__(
        self,
        estimator: str | Estimator = "gaussian",
        *,
        confidence: float | None = None,
        num_features: int | None = None,
        order: Order = "mi",
        margin: float = 0.0,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.estimator = estimator
        self.confidence = confidence
        self.num_features = num_features
        self.order = order
        self.margin = margin
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "FeatureSelector":
        """Selects the columns of X, shape [samples, columns], that inform about y.

        Whole numbers in y are classes, as everywhere in scikit-learn; any others are numbers, one or several columns.

        Raises:
            ValueError: The data or the settings are not of this form, or there are too few samples for the test.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=False, ensure_min_samples=2, dtype=np.float64)
        self._check_settings(X.shape[1])
        try:
            samples = Samples.of(torch.from_numpy(X), _target(y))
            self.support_ = self._select(samples, X.shape[1])
        except CalibrationError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_settings(self, columns: int) -> None:
        if self.confidence is not None and self.num_features is not None:
            raise ValueError(
                f"confidence={self.confidence} and num_features={self.num_features}: expected only one of them."
            )
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; expected a number in [0.5, 1).")
        if self.num_features is not None and not 1 <= self.num_features <= columns:
            raise ValueError(f"num_features is {self.num_features}; X has {columns} columns, expected 1 to {columns}.")
        if isinstance(self.estimator, str) and self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is {self.estimator!r}; expected one of {', '.join(ESTIMATORS)}.")

    def _select(self, samples: Samples, columns: int) -> NDArray[np.bool_]:
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        estimator = make_estimator(self.estimator)
        information: Information = estimator(samples, torch.Generator().manual_seed(seed))
        self.information_ = information.marginal().numpy()
        if self.num_features is not None:
            kept = backward_elimination(information, self.order).kept(self.num_features)
        else:
            confidence = 0.95 if self.confidence is None else self.confidence
            kept = terc(information, confidence, self.order, margin=self.margin, min_keep=1)
        return np.isin(np.arange(columns), kept)

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _target(y: NDArray[Any]) -> Tensor:
    """Classes as integers from zero, numbers as [samples, targets]."""
    if type_of_target(y) in ("binary", "multiclass"):
        return torch.from_numpy(np.unique(y, return_inverse=True)[1].reshape(-1))
    try:
        return torch.from_numpy(np.asarray(y, np.float64).reshape(len(y), -1))
    except ValueError as error:
        raise MippError(f"y holds {y.dtype}; expected classes or numbers.") from error
