"""Numbers of features: whole, as fractions, or neither."""

import numpy as np
import pytest

from mipp.selectors.number import count_features


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, 1), (10, 10), (np.int64(3), 3), (0.5, 5), (np.float32(0.01), 1), (1.0, 10)],
)
def test_counts_and_fractions(number, expected):
    assert count_features(number, 10) == expected


@pytest.mark.parametrize("number", [0, 11, -1, True, 0.0, 1.5, float("nan"), "auto", None])
def test_anything_else_is_no_number_of_features(number):
    assert count_features(number, 10) is None
