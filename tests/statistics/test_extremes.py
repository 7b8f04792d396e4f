"""Features whose squares leave the range of float32 are widened; those that do not vary are found."""

import pytest
import torch

from mipp.statistics.extremes import are_extreme, find_constant


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, False), (1e14, False), (1e16, True), (1e-16, True), (0.0, False)]
)
@pytest.mark.parametrize(("rows", "first"), [(8, -1), (600, -1), (600, 0)])
def test_a_single_extreme_feature_is_seen(scale, expected, rows, first):
    samples = torch.randn(rows, 3).clamp(-3, 3)
    samples[:, 1] = scale * torch.linspace(first, 1, rows)
    assert are_extreme(samples) == expected
    assert are_extreme(torch.ones(4, 2), samples) == expected
    assert not are_extreme(samples.double())


@pytest.mark.parametrize(("scale", "expected"), [(1.0, False), (1e16, True), (1e-16, True), (0.0, False)])
def test_a_feature_that_is_extreme_in_one_group_is_seen(scale, expected):
    samples = torch.ones(3, 100, 2)
    samples[1, :, 0] = 0
    samples[1, 90, 0] = scale
    assert are_extreme(samples) == expected


def test_a_variance_of_rounding_is_none():
    mean = torch.tensor([1e4, 1e4, 0.0], dtype=torch.float64)
    spread = torch.tensor([1e-4, 1.0, 0.0], dtype=torch.float64)
    assert find_constant(mean, spread.square(), torch.float32).tolist() == [True, False, True]
