"""The second fit, behind a ReLU, is never worse than the first."""

from dataclasses import astuple

import pytest
import torch

from mipp.refit.folds import folds_of
from mipp.refit.regression import Fit, Regression
from mipp.refit.relu import Rectified, by_group
from mipp.runtime.tensor_store import TensorStore


def drawn(rows: int = 60, inputs: int = 7, outputs: int = 3, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64) + 1
    weight = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    return x, x @ weight + 2 + noise * torch.randn(rows, outputs, generator=generator, dtype=torch.float64)


def hidden_rows(groups: int = 2) -> tuple[torch.Tensor, ...]:
    """Inputs [groups, rows, 5] of a layer of 3 outputs per group, what it lacks, and what a ReLU reads behind it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(groups, 300, 5, generator=generator, dtype=torch.float64)
    wanted = torch.randn(300, 3 * groups, generator=generator, dtype=torch.float64) + 3 * inputs[0, :, :1].abs() - 2
    found = wanted + torch.randn(300, 3 * groups, generator=generator, dtype=torch.float64)
    return inputs, wanted, found


@pytest.mark.parametrize("ridge", [1e-9, 0.1, 100.0])
def test_behind_a_relu_the_second_fit_is_better_and_never_worse_than_none(ridge):
    inputs, wanted, found = hidden_rows()
    scale = torch.tensor([0.5, -1.0, 2.0, 1.0, -0.3, 0.7], dtype=torch.float64)
    missing, folds = (wanted - found) / scale, folds_of(300, 300, 0)
    regression = Regression(2, 5, 3, centred=True)
    for part in torch.arange(300).split(100):
        regression.update(inputs[:, part], by_group(missing[part], 2), folds[part])
    first = regression.solver().solve(ridge)
    rectified = Rectified(scale, 1 / scale, TensorStore(1e9))
    for part in torch.arange(300).split(100):
        rectified.update(inputs[:, part], missing[part], wanted[part], found[part], folds[part])

    def error(fit):
        made = torch.cat([x @ change + offset for x, change, offset in zip(inputs, *astuple(fit), strict=True)], 1)
        return float(((found + made * scale).relu() - wanted.relu()).square().sum())

    second = rectified.refine(first, regression)
    none = Fit(torch.zeros_like(first.change), torch.zeros_like(first.offset))
    assert error(second) < error(first)
    assert error(second) <= error(none)


@pytest.mark.parametrize("seed", range(8))
def test_where_the_second_fit_changes_only_what_is_hidden_the_first_stays(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(1, 300, 5, generator=generator, dtype=torch.float64)
    wanted = torch.randn(300, 3, generator=generator, dtype=torch.float64).abs() + 99
    wanted[:, 1:] *= -1  # the ReLU sees all of the first output and nothing of the others
    weight = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    missing = inputs[0] @ weight + 0.01 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    regression, rectified = Regression(1, 5, 3, centred=True), Rectified(*torch.ones(2), TensorStore(1e9))
    folds = folds_of(300, 300, 0)
    regression.update(inputs, missing[None], folds)
    rectified.update(inputs, missing, wanted, wanted - missing, folds)
    first = regression.solver().solve(0.1)
    found = rectified.refine(first, regression)
    assert torch.equal(found.change, first.change)
    assert torch.equal(found.offset, first.offset)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("inputs", [7, 90])
def test_shifted_residuals_are_as_if_they_had_been_added_so(inputs, again, centred):
    x, r = drawn(inputs=inputs)
    by, folds = torch.randn_like(r), folds_of(len(x), len(x), 0)
    shifted, expected = (Regression(1, inputs, r.shape[1], centred=centred) for _ in range(2))
    parts = [torch.arange(25), torch.arange(25, 26), torch.arange(26, 60)]
    for part in parts:
        shifted.update(x[None, part], r[None, part], folds[part])
        expected.update(x[None, part], (r + by)[None, part], folds[part])
    if again:
        shifted.solver().solve(0.1)
    for part in parts:
        shifted.shift(x[None, part], by[None, part], folds[part])
    found = shifted.solve_shifted() if again else shifted.solver().solve(0.1)
    wanted = expected.solver().solve(0.1)
    torch.testing.assert_close(found.change, wanted.change)
    torch.testing.assert_close(found.offset, wanted.offset)
