"""Feature selection beside scikit-learn's, on the five data sets of one target that come with it.

    python -m benchmarks.features

Each selector keeps a quarter or a half of the columns inside every outer fold; the sequential search has its own cross-
validation inside of that (nested). What is kept feeds a logistic regression, or a ridge regression of diabetes. Seconds
are those of the processor for one fit. Digits has one repetition and no half: the sequential search takes minutes.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from math import sqrt
from statistics import mean, variance
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import (
    SelectKBest,
    SelectorMixin,
    SequentialFeatureSelector,
    f_classif,
    f_regression,
    mutual_info_classif,
    mutual_info_regression,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mipp
from benchmarks.record import Record, Row

DATA = {
    "iris": datasets.load_iris, "wine": datasets.load_wine, "breast cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes, "digits": datasets.load_digits,
}  # fmt: skip
FOLDS, REPEATS = 5, 4
SHARES = (0.25, 0.5)
SEQUENTIAL = "sequential search"


class MRMR(SelectorMixin, BaseEstimator):  # type: ignore[misc]
    """Adds the column of most mutual information with y less its mean with those chosen.

    Source: Peng, Long & Ding, Feature selection based on mutual information, 2005 (difference form).
    """

    def __init__(self, num_features: int, relevance: Callable[..., NDArray[np.float64]]) -> None:
        self.num_features = num_features
        self.relevance = relevance

    def fit(self, X: NDArray[np.float64], y: NDArray[Any]) -> "MRMR":
        score = self.relevance(X, y, random_state=0)
        found = [int(score.argmax())]
        redundancy = np.zeros(X.shape[1])
        while len(found) < self.num_features:
            redundancy += mutual_info_regression(X, X[:, found[-1]], random_state=0)
            value = score - redundancy / len(found)
            value[found] = -np.inf
            found.append(int(value.argmax()))
        self.support_ = np.isin(np.arange(X.shape[1]), found)
        return self

    def _get_support_mask(self) -> NDArray[np.bool_]:
        return self.support_


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", message="Features .* are constant|invalid value encountered", append=False)
    record = Record("features", folds=FOLDS, repeats=REPEATS, seed=0)
    for name, load in DATA.items():
        x, y = load(return_X_y=True)
        record.measure({"data": name, "share": "all", "selector": "none"}, partial(scores, name, x, y, None))
        for share in SHARES[: 1 if name == "digits" else None]:
            number = max(1, round(share * x.shape[1]))
            for selector, make in selectors(name, number).items():
                key = {"data": name, "share": share, "selector": selector}
                record.measure(key, partial(scores, name, x, y, make))
        key = {"data": name, "share": "auto", "selector": "mipp"}
        record.measure(key, partial(scores, name, x, y, mipp.FeatureSelector))


def selectors(name: str, number: int) -> dict[str, Callable[[], Any]]:
    """The selectors that keep this many columns."""
    numbers = name == "diabetes"
    information = mutual_info_regression if numbers else mutual_info_classif
    return {
        "mipp": lambda: mipp.FeatureSelector(num_features=number),
        SEQUENTIAL: lambda: SequentialFeatureSelector(model(name), n_features_to_select=number),
        "mRMR": lambda: MRMR(number, information),
        "mutual information": lambda: SelectKBest(partial(information, random_state=0), k=number),
        "F": lambda: SelectKBest(f_regression if numbers else f_classif, k=number),
    }


def model(name: str) -> Any:
    """The estimator that reads the selected columns."""
    return make_pipeline(StandardScaler(), Ridge() if name == "diabetes" else LogisticRegression(max_iter=300))


def scores(name: str, x: NDArray[np.float64], y: NDArray[Any], make: Callable[[], Any] | None) -> Row:
    """Score in percent (accuracy, or R²) on every outer fold, seconds of selection, and columns kept."""
    kind = RepeatedKFold if name == "diabetes" else RepeatedStratifiedKFold
    folds = kind(n_splits=FOLDS, n_repeats=1 if name == "digits" else REPEATS, random_state=0)
    found, seconds, kept = [], [], []
    for train, test in folds.split(x, y):
        support = np.ones(x.shape[1], bool)
        start = time.process_time()
        if make is not None:
            support = make().fit(x[train], y[train]).get_support()
        seconds.append(time.process_time() - start)
        fitted = model(name).fit(x[train][:, support], y[train])
        found.append(100 * fitted.score(x[test][:, support], y[test]))
        kept.append(int(support.sum()))
    return {"columns": x.shape[1], "kept": mean(kept), "scores": found, "seconds": mean(seconds)}


def difference(own: Row, other: Row) -> tuple[float, float]:
    """Mean difference of paired scores and half of its 95 % interval.

    Folds share training data, so the variance is raised by test / train rows: Nadeau & Bengio, Inference for the
    generalization error, 2003.
    """
    pairs = [a - b for a, b in zip(own["scores"], other["scores"], strict=True)]
    spread = sqrt((1 / len(pairs) + 1 / (FOLDS - 1)) * variance(pairs))
    return mean(pairs), float(scipy.stats.t.ppf(0.975, len(pairs) - 1)) * spread


if __name__ == "__main__":
    main()
