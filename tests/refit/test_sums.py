"""Sums over rows are those of all rows at once, however these come."""

import pytest
import torch

from mipp.refit.sums import CrossMoments, RowSums, bytes_to_solve, runs_within


def reference(x, r) -> CrossMoments:
    dx, dr = x - x.mean(1, keepdim=True), r - r.mean(1, keepdim=True)
    count = x.shape[1]
    return CrossMoments(
        count, x.mean(1), r.mean(1), dx.mT @ dx / count, dx.mT @ dr / count, dr.square().sum((1, 2)) / count
    )


def assert_equal(found: CrossMoments, expected: CrossMoments, names=("x", "r", "xx", "xr", "rr")) -> None:
    assert found.count == expected.count
    for name in names:
        assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12), name


def rows(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, count, n, dtype=torch.float64, generator=generator) + 3 for n in (5, 3)]


def test_moments_are_those_of_all_rows():
    x, r = rows(2500)
    sums = RowSums(2, 5, 3, None)
    for start in (0, 700, 1400):
        assert sums.add(x[:, start : start + 700], r[:, start : start + 700])
    assert_equal(sums.moments(torch.zeros(2, 5, dtype=torch.float64)), reference(x[:, :2100], r[:, :2100]))


def test_merging_two_halves_gives_the_whole():
    x, r = rows(50)
    halves = [reference(x[:, part], r[:, part]) for part in (slice(0, 20), slice(20, 50))]
    assert_equal(halves[0].merge(halves[1]), reference(x, r))


def test_residuals_can_be_changed_and_inputs_silenced_afterwards():
    x, r = rows(40)
    sums, zeros = RowSums(2, 5, 3, None), torch.zeros(2, 5, dtype=torch.float64)
    sums.add(x.clone(), r.clone())
    sums.shift(x, 2 * r, torch.tensor([1]))
    sums.silence(torch.tensor([1]))
    x[..., 1] = 0
    assert_equal(sums.moments(zeros), reference(x, 3 * r), ("x", "r", "xx", "xr"))


def test_rows_that_are_not_finite_are_noticed():
    x, r = rows(4)
    x[0, 1, 2] = float("inf")
    assert not RowSums(2, 5, 3, None).add(x, r)


@pytest.mark.parametrize(("rows", "inputs"), [(100, 1000), (5000, 1000), (5000, 65), (9, 64)])
def test_runs_cover_all_inputs_and_fit_or_are_narrow(rows, inputs):
    for limit in (1e4, 1e6, 1e7, 1e12):
        found = runs_within(limit, rows, inputs, 50, 2)
        assert [i for run in found for i in range(inputs)[run]] == list(range(inputs))
        size = found[0].stop - found[0].start
        assert size <= 64 or bytes_to_solve(rows, size, 50, 2) <= limit
        assert len(found) == 1 or bytes_to_solve(rows, 2 * size, 50, 2) > limit


def test_few_rows_of_many_outputs_take_less_memory_than_their_sums():
    few, many = (bytes_to_solve(rows, 2048, 32000, 1) for rows in (1024, 2048))
    assert few < 2e9 < many
    assert bytes_to_solve(1024, 2048, 32000, 3) == 3 * few
