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
from mipp.estimators import MLP, Surrogate


def data(rows=400):
    """Columns 0 and 2 make y; 1 is noise, 3 repeats 0."""
    g = np.random.default_rng(0)
    x = g.normal(size=(rows, 3))
    y = x[:, 0] - 2 * x[:, 2] + 0.1 * g.normal(size=rows)
    return np.column_stack([x, x[:, 0] + 1e-3 * g.normal(size=rows)]), y


class TestFeatureSelector:
    @pytest.mark.parametrize("number", ["auto", 0.5])
    def test_scikit_learn_finds_nothing_to_complain_about(self, number):
        too_few = {"check_sample_weight_equivalence_on_dense_data": "fewer rows than columns cannot be tested"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            selector = mipp.FeatureSelector(num_features=number)
            expected = too_few if number == "auto" else None
            results = check_estimator(selector, on_skip=None, expected_failed_checks=expected)
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

    @pytest.mark.parametrize(("number", "kept"), [(0.25, 1), (0.5, 2), (1.0, 4), (1, 1), (np.int64(2), 2)])
    def test_a_whole_number_counts_columns_and_a_float_is_a_fraction(self, number, kept):
        assert mipp.FeatureSelector(num_features=number).fit(*data()).get_support().sum() == kept

    def test_of_three_copies_one_is_kept_beside_a_weaker_column(self):
        g = np.random.default_rng(0)
        strong, weak = g.normal(size=(2, 400))
        x = np.column_stack([strong + 1e-2 * g.normal(size=400) for _ in range(3)] + [weak])
        kept = mipp.FeatureSelector(num_features=2).fit(x, strong + 0.3 * weak).get_support()
        assert kept[:3].sum() == 1
        assert kept[3]

    @pytest.mark.parametrize("number", ["auto", 2])
    def test_a_weight_counts_a_row_so_many_times(self, number):
        x, y = data(60)
        weights = np.random.default_rng(1).integers(0, 4, 60)
        selector = mipp.FeatureSelector(num_features=number)
        information = selector.fit(np.repeat(x, weights, 0), np.repeat(y, weights)).information_
        support = selector.support_
        selector.fit(x, y, sample_weight=weights)
        np.testing.assert_allclose(selector.information_, information, rtol=1e-9)
        assert (selector.support_ == support).all()

    def test_perceptrons_do_not_see_rows_of_no_weight(self):
        x, y = data()
        weights = np.r_[np.ones(200), np.zeros(200)]
        lies = np.r_[y[:200], x[200:, 1]]
        selector = mipp.FeatureSelector(Surrogate(hidden=(32,), iterations=200), num_features=1)
        assert selector.fit(x, lies, sample_weight=weights).get_support(indices=True).tolist() == [2]

    def test_missing_values_are_said_by_column(self):
        x, y = data()
        x[:3, 1] = np.nan
        with pytest.raises(ValueError, match=r"NaN or infinity in the columns 1, in 3 of 400 rows.*SimpleImputer"):
            mipp.FeatureSelector().fit(x, y)

    @pytest.mark.parametrize("library", ["pandas", "polars"])
    def test_frames_keep_their_names_and_raise_no_warning(self, library):
        frames = pytest.importorskip(library)
        x, y = data()
        table = frames.DataFrame({name: x[:, i] for i, name in enumerate("abcd")})
        selector = mipp.FeatureSelector(num_features=1).set_output(transform=library)
        assert list(selector.fit(table, frames.Series(y)).transform(table).columns) == ["c"]
        assert selector.get_feature_names_out().tolist() == ["c"]

    def test_an_array_that_cannot_be_written_raises_no_warning(self):
        x, y = data()
        x.flags.writeable = y.flags.writeable = False
        mipp.FeatureSelector().fit(x, y)

    def test_it_works_in_a_pipeline_on_classes(self):
        x, y = data()
        pipeline = make_pipeline(StandardScaler(), mipp.FeatureSelector(), LogisticRegression())
        assert pipeline.fit(x, y > 0).score(x, y > 0) > 0.95

    def test_whole_numbers_that_hardly_repeat_are_no_classes(self):
        x, y = data()
        rounded = np.round(100 * y)
        exact = mipp.FeatureSelector(num_features=2).fit(x, y).information_
        np.testing.assert_allclose(mipp.FeatureSelector(num_features=2).fit(x, rounded).information_, exact, rtol=0.02)

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
            ({"num_features": 1.5}, "fraction of them"),
            ({"num_features": True}, "fraction of them"),
            ({"order": "random"}, "'greedy' or 'mi'"),
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


def test_perceptrons_that_have_memorised_their_samples_are_a_warning():
    """Of y, which is noise, nothing can be told."""
    rng = np.random.default_rng(0)
    selector = mipp.FeatureSelector(MLP(hidden=(64,), initial_iterations=400), num_features=2)
    with pytest.warns(UserWarning, match=r"-\d+\.\d\d nats of y.*less than none.*Pass more samples") as told:
        selector.fit(rng.normal(size=(40, 8)), rng.normal(size=40))
    assert {warning.filename for warning in told} == {__file__}
