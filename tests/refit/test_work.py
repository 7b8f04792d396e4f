"""A pass through the data finds the error of a weight; the best weights stay."""

import math

import pytest
import torch
from networks import normal

from mipp.refit.folds import folds_of
from mipp.refit.regression import Regression, best_ridge
from mipp.refit.work import Best, Pass, total


def test_a_squared_error_is_summed_and_infinite_where_it_is_no_number():
    assert total([]) == 0
    assert total([torch.tensor(1.5), torch.tensor(2.0)]) == 3.5
    assert total([torch.tensor(1.5), torch.tensor(math.nan)]) == math.inf


def test_a_pass_is_finite_if_every_use_was():
    fine, wrong = (0, torch.tensor(data=True)), (1, torch.tensor(data=False))
    regression = Regression(1, 3, 2, centred=True)
    assert Pass(slice(0), regression).is_empty
    assert Pass(slice(0), regression, [fine]).is_finite()
    assert not Pass(slice(0), regression, [fine, wrong]).is_finite()


@pytest.mark.parametrize("weighed", [(), (0, 1, 2), (1,)])
def test_rows_of_several_uses_together_are_the_rows_one_use_after_the_other(weighed):
    parts = []
    for use in range(3):
        weights = normal(6, seed=use).square() if use in weighed else None
        rows = normal(1, 6, 3, seed=use), normal(1, 6, 2, seed=9 + use), folds_of(6, 6, 0), weights
        parts.append(rows)
    together, each = (Regression(1, 3, 2, centred=True) for _ in range(2))
    found = Pass(slice(3), together)
    for number, rows in enumerate(parts):
        each.update(*rows)
        found.add(4, rows, last=number == 2)
    assert [(batch, bool(fine)) for batch, fine in found.finite] == [(4, True)]
    solvers = together.solver(), each.solver()
    one, other = (solver.solve(best_ridge(solver)) for solver in solvers)
    assert torch.allclose(one.change, other.change, rtol=1e-4, atol=1e-6)
    assert torch.allclose(one.offset, other.offset, rtol=1e-4, atol=1e-6)


def settled(weights: list[float], errors: dict[float, float]) -> list[float]:
    """A weight after each of several settlements, of which the first takes it as it is; errors by weight."""
    weight, found = torch.zeros(2), []
    best = Best([weight])
    for value in weights:
        weight.fill_(value)
        best.settle(lambda: errors[float(weight[0])])
        found.append(float(weight[1]))
    return found


def test_the_best_weights_stay_and_an_error_that_is_no_number_is_none():
    errors = {0.0: math.inf, 1.0: 3.0, 2.0: 2.0, 5.0: 5.0, 3.5: 4.0, 2.75: 4.0, 6.0: math.inf, 4.0: math.inf, 3.0: 2.5}
    assert settled([0.0, 1.0, 2.0, 5.0, 6.0], errors) == [0.0, 1.0, 2.0, 2.0, 2.0]


def test_of_a_change_that_makes_things_worse_a_half_or_a_quarter_is_taken():
    assert settled([0.0, 8.0], {0.0: 2.0, 8.0: 9.0, 4.0: 1.0, 2.0: 0.5}) == [0.0, 4.0]
    assert settled([0.0, 8.0, 10.0], {0.0: 2.0, 8.0: math.inf, 4.0: 9.0, 2.0: 1.0, 10.0: 0.0}) == [0.0, 2.0, 10.0]
