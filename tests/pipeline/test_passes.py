"""Passes compared: samples that depend on each other, and models that say something else each time."""

import pytest
import torch
from cases import Net
from torch import nn

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.pipeline.passes import measure_noise, runs_in_parts
from mipp.runtime.record import Notes

CALL = Call((torch.randn(5, 3),))


@pytest.mark.parametrize(
    ("forward", "independent"),
    [
        (lambda m, x: m.layer(x), True),
        (lambda m, x: m.layer(x.cumsum(0)), False),
        (lambda m, x: m.layer(x).sum(), True),
    ],
)
def test_samples_are_independent_where_the_last_two_say_the_same_alone(forward, independent):
    assert runs_in_parts(Net(forward, layer=nn.Linear(3, 2)), CALL) == independent


def test_a_model_that_says_the_same_has_no_noise():
    notes = Notes()
    assert measure_noise(nn.Linear(3, 2), CALL, notes) == 0
    assert list(notes) == []


def test_a_model_that_draws_is_refused_and_the_module_is_named():
    noisy = nn.Sequential(nn.Linear(3, 4), Net(lambda m, x: x + torch.randn_like(x)))
    with pytest.raises(UnsupportedModelError, match="beginning in module '1'"):
        measure_noise(noisy, CALL, Notes())
