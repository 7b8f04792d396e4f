"""The regression behind the refit, against rows held in memory."""

import pytest
import torch
from torch import nn

import mipp
from mipp.refit.folds import FOLDS, folds_of
from mipp.refit.regression import RIDGES, Regression, best_ridge


def drawn(rows: int = 60, inputs: int = 7, outputs: int = 3, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64) + 1
    weight = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    return x, x @ weight + 2 + noise * torch.randn(rows, outputs, generator=generator, dtype=torch.float64)


def fitted(x: torch.Tensor, r: torch.Tensor, weights: torch.Tensor | None = None, *, centred: bool) -> Regression:
    regression = Regression(1, x.shape[1], r.shape[1], centred=centred)
    regression.update(x[None], r[None], folds_of(len(x), len(x), 0), weights)
    return regression


def ridge_of(x: torch.Tensor, r: torch.Tensor) -> float:
    return best_ridge(fitted(x, r, centred=True).solver())


def by_rows(x, r, weights, ridge, *, centred):
    """Least squares on the rows times the roots of their weights, with the penalty as further rows."""
    own = weights[:, None] / weights.sum()
    mean_x, mean_r = (own * x).sum(0), (own * r).sum(0)
    z, roots = x - mean_x * centred, weights.sqrt()[:, None]
    penalty = (ridge * (roots * z).square().sum() / x.shape[1]) ** 0.5 * torch.eye(x.shape[1], dtype=x.dtype)
    rows = torch.cat([roots * z, penalty]), torch.cat([roots * (r - mean_r * centred), 0 * penalty[:, : r.shape[1]]])
    change = torch.linalg.lstsq(*rows).solution
    return change, mean_r - mean_x @ change


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [60, 12, 5])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 50.0])
def test_change_and_held_out_error_are_those_of_the_rows(centred, ridge, rows, weighted):
    """Also where rows are fewer than inputs, in every fold or in both."""
    x, r = drawn(rows, 7 if rows != 12 else 9)
    weights = torch.linspace(0.2, 30, rows, dtype=x.dtype) if weighted else torch.ones(rows, dtype=x.dtype)
    solver = fitted(x, r, weights if weighted else None, centred=centred).solver()
    found, (change, offset) = solver.solve(ridge), by_rows(x, r, weights, ridge, centred=centred)
    torch.testing.assert_close(found.change[0], change, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.offset[0], offset * centred, rtol=1e-9, atol=1e-9)
    error = 0.0
    for number in range(FOLDS):
        fold = torch.arange(len(x)) % FOLDS == number
        rest = ~fold
        change, offset = by_rows(x[rest], r[rest], weights[rest], ridge, centred=centred)
        left = r[fold] - x[fold] @ change - offset * centred
        error += float((weights[fold, None] * left.square()).sum())
    assert float(solver.held_out_error(ridge)) == pytest.approx(error, rel=1e-9)


def test_an_infinite_ridge_changes_nothing():
    change = fitted(*drawn(), centred=True).solver().solve(1e15).change
    assert float(change.abs().max()) < 1e-12


def test_the_ridge_is_small_for_what_is_linear_and_large_for_noise():
    x, r = drawn(400, noise=0.0)
    assert ridge_of(x, r) == RIDGES[0]
    wide, _ = drawn(40, 60)
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert ridge_of(wide, noise) == RIDGES[-1]


def test_the_ridge_depends_neither_on_the_order_within_a_fold_nor_on_the_scale_of_the_inputs():
    x, r = drawn(40, 30, noise=3.0)
    expected = ridge_of(x, r)
    assert RIDGES[0] < expected < RIDGES[-1]
    order = torch.arange(len(x)).reshape(-1, FOLDS).flip(0).flatten()
    assert ridge_of(x[order], r[order]) == expected
    assert ridge_of(1000 * x, r) == expected


def test_with_fewer_rows_than_inputs_the_refit_does_no_harm_on_fresh_data():
    """A wide hidden layer: least squares alone fits the rows it sees, and is worse than the cut on others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 20)).double()
    seen, fresh = torch.randn(220, 100).double(), torch.randn(2000, 100).double()
    errors = {}
    for name, compensate in {"cut": False, "least squares": mipp.Refit(ridge=1e-9), "held out": True}.items():
        small = mipp.prune(
            model, [seen], mipp.Budget(nodes=200), mipp.methods.L1(), compensate=compensate, progress=False
        ).model
        errors[name] = float((small(fresh) - model(fresh)).detach().square().mean())
    assert errors["held out"] < errors["cut"] < errors["least squares"]


@pytest.mark.parametrize("place", range(len(RIDGES)))
@pytest.mark.parametrize("start", range(len(RIDGES)))
def test_the_ridge_of_the_least_error_is_found_in_few_trials_from_wherever_the_search_starts(place, start):
    tried: list[float] = []

    class Valley:
        can_hold_out = True

        def held_out_error(self, ridge):
            tried.append(ridge)
            return torch.tensor(float(abs(RIDGES.index(ridge) - place)))

    assert best_ridge(Valley(), RIDGES[start]) == RIDGES[place]
    assert len(tried) == len(set(tried)) <= abs(place - start) + 3
