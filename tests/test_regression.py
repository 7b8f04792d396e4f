"""The regression behind the refit, against rows held in memory; and which weights are refitted."""

import pytest
import torch
from cases import named
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mipp
from mipp.graph.nodes import PruningGraph
from mipp.refit.regression import FOLDS, RIDGES, Fit, Regression, best_ridge, folds_of
from mipp.refit.relu import Rectified
from mipp.refit.targets import targets_of
from mipp.runtime.tensor_store import TensorStore


def drawn(rows: int = 60, inputs: int = 7, outputs: int = 3, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64) + 1
    weight = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    return x, x @ weight + 2 + noise * torch.randn(rows, outputs, generator=generator, dtype=torch.float64)


def fitted(x: torch.Tensor, r: torch.Tensor, *, centred: bool) -> Regression:
    regression = Regression(x.shape[1], r.shape[1], centred=centred)
    regression.update(x, r, folds_of(len(x), len(x), 0))
    return regression


def by_rows(x, r, ridge, *, centred):
    """Least squares on the rows with the penalty as further rows."""
    mean_x, mean_r = (x.mean(0), r.mean(0)) if centred else (x.new_zeros(x.shape[1]), r.new_zeros(r.shape[1]))
    z = x - mean_x
    penalty = (ridge * z.square().mean() * len(z)) ** 0.5 * torch.eye(x.shape[1], dtype=x.dtype)
    rows = torch.cat([z, penalty]), torch.cat([r - mean_r, r.new_zeros(x.shape[1], r.shape[1])])
    change = torch.linalg.lstsq(*rows).solution
    return change, r.mean(0) - x.mean(0) @ change


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 50.0])
def test_change_and_held_out_error_are_those_of_the_rows(centred, ridge):
    x, r = drawn()
    regression = fitted(x, r, centred=centred)
    found, (change, offset) = regression.solve(ridge), by_rows(x, r, ridge, centred=centred)
    torch.testing.assert_close(found.change, change, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.offset, offset * centred, rtol=1e-9, atol=1e-9)
    error = 0.0
    for number in range(FOLDS):
        fold = torch.arange(len(x)) % FOLDS == number
        rest = ~fold
        change, offset = by_rows(x[rest], r[rest], ridge, centred=centred)
        error += float((r[fold] - x[fold] @ change - offset * centred).square().sum())
    assert regression.held_out_error(ridge) == pytest.approx(error, rel=1e-9)


def test_an_infinite_ridge_changes_nothing():
    change = fitted(*drawn(), centred=True).solve(1e15).change
    assert float(change.abs().max()) < 1e-12


def test_the_ridge_is_small_for_what_is_linear_and_large_for_noise():
    x, r = drawn(400, noise=0.0)
    assert best_ridge([fitted(x, r, centred=True)]) == RIDGES[0]
    wide, _ = drawn(40, 60)
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert best_ridge([fitted(wide, noise, centred=True)]) == RIDGES[-1]


def test_the_ridge_depends_neither_on_the_order_within_a_fold_nor_on_the_scale_of_the_inputs():
    x, r = drawn(40, 30, noise=3.0)
    expected = best_ridge([fitted(x, r, centred=True)])
    assert RIDGES[0] < expected < RIDGES[-1]
    order = torch.arange(len(x)).reshape(-1, FOLDS).flip(0).flatten()
    assert best_ridge([fitted(x[order], r[order], centred=True)]) == expected
    assert best_ridge([fitted(1000 * x, r, centred=True)]) == expected


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


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_very_few_samples_are_enough_to_refit(samples):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(samples, 5)
    result = mipp.prune(model, [data], mipp.Budget(nodes=4), progress=False)
    cut = mipp.apply(result.plan, model)
    assert (result.model(data) - model(data)).norm() <= (cut(data) - model(data)).norm() * (1 + 1e-5)


class Tied(nn.Module):
    """An embedding whose weight is also the last layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.before, self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.after, self.head = nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.before(self.embed(tokens))
        return self.head(self.after(x + self.down(self.up(x).relu())).tanh())


def graph_of(model: nn.Module) -> PruningGraph:
    return mipp.inspect(model, torch.arange(8).reshape(2, 4)).graph


def test_what_depends_on_removed_nodes_is_refitted_and_nothing_before_it_nor_what_an_embedding_shares():
    model = Tied()
    graph = graph_of(model)
    plan = mipp.PruningPlan.of(graph, model, {"up": (0, 1, 2)})
    assert [target.weight for target in targets_of(plan, graph)] == ["down.weight", "after.weight"]
    assert targets_of(mipp.PruningPlan.of(graph, model, {}), graph) == []


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
    regressions = [Regression(5, 3, centred=True) for _ in inputs]
    for regression, x, r in zip(regressions, inputs, missing.unflatten(1, (2, 3)).unbind(1), strict=True):
        regression.update(x, r, folds)
    first = [regression.solve(ridge) for regression in regressions]
    rectified = Rectified(scale, 1 / scale, TensorStore(1e9))
    for part in torch.arange(300).split(100):
        rectified.update(inputs[:, part], missing[part], wanted[part], found[part], folds[part])

    def error(fits):
        made = torch.cat([x @ fit.change + fit.offset for fit, x in zip(fits, inputs, strict=True)], 1)
        return float(((found + made * scale).relu() - wanted.relu()).square().sum())

    second = rectified.refine(first, regressions, ridge)
    none = [Fit(torch.zeros_like(fit.change), torch.zeros_like(fit.offset)) for fit in first]
    assert error(second) < error(first)
    assert error(second) <= error(none)


def test_shifted_residuals_are_as_if_they_had_been_added_so():
    x, r = drawn()
    by, folds = torch.randn_like(r), folds_of(len(x), len(x), 0)
    shifted = fitted(x, r, centred=True)
    shifted.shift(x, by, folds)
    found, expected = shifted.solve(0.1), fitted(x, r + by, centred=True).solve(0.1)
    torch.testing.assert_close(found.change, expected.change)
    torch.testing.assert_close(found.offset, expected.offset)


def test_the_refit_runs_less_than_three_dense_passes_through_the_data(monkeypatch):
    """One through the dense network and two through the cut one; convolutions are counted."""
    monkeypatch.setattr(
        "mipp.report.measuring.latency_ms", lambda *_: 1.0
    )  # how often that runs the network depends on the clock
    case = named("cifar resnet")
    model, batches = case.model(), case.batches(2, 100)

    def convolved(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return sum(n for op, n in counter.get_flop_counts()["Global"].items() if "conv" in str(op))

    def prune(**options):
        mipp.prune(model, batches, mipp.Budget(macs=0.5), mipp.methods.L1(), progress=False, **options)

    dense = convolved(lambda: [model(x) for x, _ in batches])
    assert convolved(prune) - convolved(lambda: prune(compensate=False)) < 3 * dense
