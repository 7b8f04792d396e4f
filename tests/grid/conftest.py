"""The workload that the tests of the grid share."""

import pytest
from digits_runs import RECIPE, make

from mipp import grid, zoo


@pytest.fixture(scope="module")
def work() -> grid.Workload:
    train, test = zoo.load("digits", "train"), zoo.load("digits", "test")
    return grid.Workload(
        "small", make, train.subset(slice(256)), test.subset(slice(100)), before=RECIPE, after=RECIPE, samples=64
    )
