"""Selection of columns for scikit-learn."""

import sys
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mipp
from mipp.estimators import Surrogate


def data(rows=400):
    """Columns 0 and 2 make y; 1 is noise, 3 repeats 0."""
    g = np.random.default_rng(0)
    x = g.normal(size=(rows, 3))
    y = x[:, 0] - 2 * x[:, 2] + 0.1 * g.normal(size=rows)
    return np.column_stack([x, x[:, 0] + 1e-3 * g.normal(size=rows)]), y


class TestFeatureSelector:
    def test_scikit_learn_finds_nothing_to_complain_about(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = check_estimator(mipp.FeatureSelector(), on_skip=None)
        assert not [r["check_name"] for r in results if r["status"] == "failed"]

    def test_it_keeps_what_informs_and_no_copies(self):
        x, y = data()
        kept = mipp.FeatureSelector(margin=0.01).fit(x, y).get_support(indices=True).tolist()
        assert len(kept) == 2
        assert 2 in kept

    def test_a_number_of_features_is_kept_and_reduces_x(self):
        x, y = data()
        selector = mipp.FeatureSelector(num_features=1).fit(x, y)
        assert selector.transform(x).shape == (len(x), 1)
        assert selector.get_support(indices=True).tolist() == [2]
        assert int(selector.information_.argmax()) == 2

    def test_it_works_in_a_pipeline_on_classes(self):
        x, y = data()
        pipeline = make_pipeline(StandardScaler(), mipp.FeatureSelector(), LogisticRegression())
        assert pipeline.fit(x, y > 0).score(x, y > 0) > 0.95

    def test_an_xor_needs_a_non_linear_estimator(self):
        g = np.random.default_rng(0)
        x = g.integers(0, 2, size=(1000, 3)).astype(float)
        y = (x[:, 0] != x[:, 2]).astype(int)
        selector = mipp.FeatureSelector(Surrogate(hidden=(64,), iterations=250), margin=0.05)
        assert selector.fit(x, y).get_support().tolist() == [True, False, True]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"confidence": 0.3}, r"\[0.5, 1\)"),
            ({"num_features": 9}, "4 columns"),
            ({"confidence": 0.9, "num_features": 2}, "only one"),
            ({"estimator": "oracle"}, "gaussian"),
        ],
    )
    def test_wrong_settings_are_refused_when_it_is_fitted(self, settings, words):
        with pytest.raises(ValueError, match=words):
            mipp.FeatureSelector(**settings).fit(*data())

    def test_one_class_and_too_few_samples_are_refused(self):
        x, y = data()
        with pytest.raises(ValueError, match="two classes"):
            mipp.FeatureSelector().fit(x, np.zeros(len(x), int))
        with pytest.raises(ValueError, match="too few to test 4 features"):
            mipp.FeatureSelector().fit(x[:4], y[:4])

    def test_without_scikit_learn_it_says_how_to_get_it(self, monkeypatch):
        for name in [n for n in sys.modules if n == "mipp.selectors.features" or n.split(".")[0] == "sklearn"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "sklearn", None)
        monkeypatch.delitem(vars(mipp), "FeatureSelector", raising=False)
        with pytest.raises(mipp.MissingRequirementError, match=r"pip install .torch-mipp\[demo\]"):
            mipp.FeatureSelector  # noqa: B018
