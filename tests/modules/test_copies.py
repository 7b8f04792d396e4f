"""Tied weights and modules that are used several times, in copies of a model."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import halve, linear_layers, normal
from torch import nn

import mipp
from mipp.modules.copies import all_finite, holds_numbers

pytestmark = pytest.mark.usefixtures("quick")


def test_spectral_norm_is_pruned_in_train_mode_as_in_eval_mode():
    spectral = nn.utils.parametrizations.spectral_norm
    torch.manual_seed(0)
    model = nn.Sequential(spectral(nn.Linear(6, 16)), nn.ReLU(), spectral(nn.Linear(16, 8)), nn.ReLU(), nn.Linear(8, 3))
    widths = [halve(model.train(mode), [normal(200, 6)]).plan.widths for mode in (True, False)]
    assert widths[0] == widths[1]
    assert widths[0]


@pytest.mark.parametrize("name", ["b", "c"])
def test_a_tied_weight_is_excluded_by_any_of_its_names(name):
    model = linear_layers(lambda m, x: m.d(F.relu(m.c(F.relu(m.b(F.relu(m.a(x))))))), 6, 8, 8, 8, 3)
    model.c.weight = model.b.weight
    assert "a" in halve(model, [normal(50, 6)]).plan.widths
    with pytest.raises(mipp.UnsupportedModelError, match="excluded by the caller"):
        halve(model, [normal(50, 6)], exclude=[name])


def test_a_module_that_is_used_several_times_has_several_names():
    layer = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(6, 8), layer, nn.ReLU(), layer, nn.Linear(8, 3))
    with pytest.raises(mipp.UnsupportedModelError, match="excluded by the caller"):
        halve(model, [normal(50, 6)], exclude=["3"])


def test_a_scripted_part_is_no_obstacle():
    model = nn.Sequential(nn.Linear(6, 16), torch.jit.script(nn.ReLU()), nn.Linear(16, 3))
    assert halve(model, [normal(50, 6)]).plan.widths == {"0": 8}


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("odd", [None, math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_found_wherever_they_are(kind, odd):
    assert all_finite(torch.empty(0, 3, dtype=kind))
    for place in range(12):
        values = torch.arange(12).to(kind).reshape(3, 4)
        if odd is not None:
            values.view(-1)[place] = odd
        assert all_finite(values) == (odd is None)
        if not kind.is_complex:
            assert holds_numbers(values, hides=False) == (odd is None)
            assert holds_numbers(values, hides=True) == (odd in (None, -math.inf))
