"""Estimators of the caller's own are called as they say, and give what an estimator gives."""

import pytest
import torch
from networks import refusal

import mipp
from mipp.estimators import MLP, Gaussian, Samples, estimate, memorised


def test_an_estimator_that_takes_other_arguments_is_refused_before_anything_takes_long():
    with pytest.raises(mipp.MippError, match=r"called as estimator\(samples, generator\), which it does not take"):
        mipp.methods.MIPP(estimator=lambda: None)


@pytest.mark.usefixtures("quick")
def test_an_estimator_that_returns_something_else_is_named():
    method = mipp.methods.MIPP(estimator=lambda samples, generator: samples.x)
    assert "estimator(samples, generator) returned a Tensor; expected an object with num_nodes" in refusal(
        method=method
    )


def normal(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


def test_perceptrons_memorise_few_samples_of_noise_and_learn_many_of_a_rule():
    settings = MLP(hidden=(64,), initial_iterations=400)
    x, y = normal(40, 8), normal(41, 2)[:40]
    assert memorised(estimate(settings, Samples.of(x, y), torch.Generator())) < -0.1
    assert memorised(estimate(settings, Samples.of(normal(2000, 8), normal(2000, 8)[:, :2]), torch.Generator())) is None


def test_rounding_is_not_memory():
    constant = Samples.of(torch.ones(50, 3), torch.ones(50, 1))
    assert memorised(estimate(Gaussian(), constant, torch.Generator())) is None
