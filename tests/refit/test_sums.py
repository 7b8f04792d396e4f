"""Sums over rows are those of all rows at once, however these come."""

import torch

from mipp.refit.sums import CrossMoments, RowSums


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
