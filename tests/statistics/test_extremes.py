"""Features whose squares leave the range of float32 are widened; those that do not vary are found."""

import pytest
import torch

from mipp.statistics.extremes import find_constant, widen_extremes


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(1.0, torch.float32), (1e14, torch.float32), (1e16, torch.float64), (1e-16, torch.float64), (0.0, torch.float32)],
)
def test_a_single_extreme_feature_widens_the_samples(scale, expected):
    samples = torch.randn(8, 3).clamp(-3, 3)
    samples[:, 1] = scale * torch.linspace(-1, 1, 8)
    assert widen_extremes(samples).dtype == expected


def test_a_variance_of_rounding_is_none():
    mean = torch.tensor([1e4, 1e4, 0.0], dtype=torch.float64)
    spread = torch.tensor([1e-4, 1.0, 0.0], dtype=torch.float64)
    assert find_constant(mean, spread.square(), torch.float32).tolist() == [True, False, True]
