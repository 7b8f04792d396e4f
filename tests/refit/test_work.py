"""A pass through the data finds the error of a weight; the best weights stay."""

import math

import torch

from mipp.refit.work import Best, Pass


def test_the_error_of_a_pass_is_summed_and_infinite_where_it_is_no_number():
    assert Pass().error() == 0
    assert Pass(squared=[torch.tensor(1.5), torch.tensor(2.0)]).error() == 3.5
    assert Pass(squared=[torch.tensor(1.5), torch.tensor(math.nan)]).error() == math.inf


def test_a_pass_is_finite_if_every_use_was():
    fine, wrong = (0, torch.tensor(data=True)), (1, torch.tensor(data=False))
    assert Pass().is_empty
    assert Pass(finite=[fine]).is_finite()
    assert not Pass(finite=[fine, wrong]).is_finite()


def test_the_best_weights_stay_and_an_error_that_is_no_number_is_none():
    weight = torch.zeros(2)
    best = Best([weight])
    for value, error in ((0.0, float("inf")), (1.0, 3.0), (2.0, 2.0), (3.0, 5.0), (4.0, float("inf"))):
        weight.fill_(value)
        best.offer(error)
    best.restore()
    assert weight.tolist() == [2.0, 2.0]
