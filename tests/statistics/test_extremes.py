"""Features whose squares leave the range of float32 are widened; those that do not vary are found."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 31, 32, 33, 300, 700]), st.integers(1, 4)),
    turned=st.booleans(),
)
def test_what_is_seen_in_pieces_is_what_the_largest_numbers_say(seed, shape, turned):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.0, 1e-16, 1.0, 1e14, 1e16])[torch.randint(5, shape, generator=generator)]
    rare = torch.rand(shape, generator=generator) < 2 / shape[1]  # so that much is tiny for many rows
    samples = torch.where(rare, scale, 0.0)
    samples = samples.transpose(0, 1).contiguous().transpose(0, 1) if turned else samples
    peaks = samples.abs().amax(1)
    assert are_extreme(samples) == bool(((peaks > 1e15) | ((peaks > 0) & (peaks < 1e-15))).any())


def test_a_variance_of_rounding_is_none():
    mean = torch.tensor([1e4, 1e4, 0.0], dtype=torch.float64)
    spread = torch.tensor([1e-4, 1.0, 0.0], dtype=torch.float64)
    assert find_constant(mean, spread.square(), torch.float32).tolist() == [True, False, True]
