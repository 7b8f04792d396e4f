"""The refit: which layers, with how many samples."""

import pytest
import torch
from cases import Net, named
from networks import Branch, halve, normal, squared_error
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mipp
from mipp.graph.row_norms import RowNorm
from mipp.plan.latency import TIMERS
from mipp.refit.settings import Refit


def images(count: int = 4) -> list[torch.Tensor]:
    return [torch.randn(8, 3, 6, 6) for _ in range(count)]


def test_a_branch_whose_last_batch_norm_is_zero_gives_finite_weights():
    model = Branch()
    nn.init.zeros_(model.norm.weight)
    result = mipp.prune(model, images(), mipp.Budget(macs=0.5), progress=False)
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_wrong_refit_options_are_refused():
    for fields, expected in (({"positions": 0}, "positions=0.*1 or more"), ({"ridge": 0.0}, "ridge=0.0.*positive")):
        with pytest.raises(mipp.MippError, match=expected):
            Refit(**fields)


class TiedAutoencoder(nn.Module):
    """Decodes with the transposed weights of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = nn.functional.relu(self.b(nn.functional.relu(self.a(x))))
        decoded = nn.functional.relu(nn.functional.linear(code, self.b.weight.t()))
        return nn.functional.linear(decoded, self.a.weight.t())


def test_a_weight_that_is_read_transposed_as_well_is_not_refitted_and_the_report_says_so():
    torch.manual_seed(0)
    model, data = TiedAutoencoder(), [torch.randn(200, 8)]
    refitted, cut = (
        mipp.prune(model, data, mipp.Budget(widths={"a": 12}), compensate=c, progress=False) for c in (True, False)
    )
    assert torch.equal(refitted.model(data[0]), cut.model(data[0]))
    assert any(note.startswith("Left as cut, as") and " b" in note for note in refitted.report.notes)


def test_a_computed_weight_is_left_as_cut_and_the_report_says_so():
    layers = nn.Linear(6, 16), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 3))
    result = mipp.prune(nn.Sequential(*layers), [torch.randn(60, 6)], mipp.Budget(nodes=0.5), progress=False)
    assert any(note.startswith("Left as cut, as") for note in result.report.notes)


class TokenMixer(nn.Module):
    """A layer over the tokens, for which the channels of the stream are rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(5, 16), nn.Linear(6, 12), nn.Linear(12, 6)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).relu()
        x = x + self.down(self.up(x.transpose(1, 2)).relu()).transpose(1, 2)
        return self.head(x.mean(1))


@pytest.mark.parametrize("budget", [mipp.Budget(nodes=0.6), mipp.Budget(nodes=0.2, min_keep=0)], ids=repr)
def test_a_layer_whose_rows_are_cut_is_refitted_and_distilled(budget):
    torch.manual_seed(0)
    model, data = TokenMixer().eval(), [torch.randn(32, 6, 5) for _ in range(9)]
    assert set(mipp.inspect(model, data[0]).groups) == {"embed", "up"}

    def error(compensate: bool, **options: str) -> float:
        result = mipp.prune(model, data, budget, mipp.methods.L1(), compensate=compensate, progress=False, **options)
        with torch.no_grad():
            return float(sum((result.model(x) - model(x)).square().sum() for x in data))

    cut, refitted = error(False), error(True)
    assert refitted < 0.7 * cut
    assert error(True, recover="distill") <= refitted


def test_an_activation_with_a_single_number_goes_with_any_width():
    model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 2))
    assert set(mipp.inspect(model, torch.randn(3, 4)).groups) == {"0"}


pytestmark = pytest.mark.usefixtures("quick")


class Recurrent(nn.Module):
    """An LSTM over time-first or batch-first sequences, its outputs averaged over time or not."""

    def __init__(self, *, batch_first: bool, averaged: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time, self.averaged = int(batch_first), averaged
        self.lstm, self.out = nn.LSTM(8, 24, batch_first=batch_first), nn.Linear(24, 4)

    def forward(self, x):
        said = self.lstm(x)[0]
        return self.out(said.mean(self.time) if self.averaged else said)


@pytest.mark.parametrize("averaged", [True, False])
def test_sequences_with_time_first_are_pruned_as_those_with_batches_first(averaged):
    data = [normal(10, 24, 8, seed=seed).cumsum(0) * 0.3 for seed in range(3)]
    results, errors = [], []
    for batch_first, own in ((False, data), (True, [x.transpose(0, 1) for x in data])):
        model = Recurrent(batch_first=batch_first, averaged=averaged)
        results.append(halve(model, own))
        errors.append(squared_error(results[-1].model, model, [(x,) for x in own]))
    first, second = results
    assert first.plan.kept == second.plan.kept
    assert errors[0] == pytest.approx(errors[1], rel=0.2)  # other rows are held out for the ridge
    assert any("taken whole" in note for note in first.report.notes)
    assert not any("taken whole" in note for note in second.report.notes)


def test_images_without_a_dimension_of_samples_are_refitted():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(0), nn.Linear(8, 4))
    calls = [(normal(3, 8, 8, seed=seed),) for seed in range(24)]
    result = halve(model, [x for (x,) in calls])
    assert squared_error(result.model, model, calls) < 0.5 * squared_error(mipp.apply(result.plan, model), model, calls)


def test_complex_weights_are_left_as_cut_and_named():
    def bare(m, x):
        return m.b(torch.tanh(m.a(x))).abs()

    model = Net(bare, a=nn.Linear(6, 16, dtype=torch.cfloat), b=nn.Linear(16, 3, dtype=torch.cfloat))
    data = [torch.complex(normal(50, 6), normal(50, 6, seed=1))]
    result = halve(model, data, method=mipp.methods.L1())
    assert squared_error(result.model, mipp.apply(result.plan, model), [data]) == 0
    assert any("complex: b." in note for note in result.report.notes)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_very_few_samples_are_enough_to_refit(samples):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(samples, 5)
    result = mipp.prune(model, [data], mipp.Budget(nodes=4), progress=False)
    cut = mipp.apply(result.plan, model)
    assert (result.model(data) - model(data)).norm() <= (cut(data) - model(data)).norm() * (1 + 1e-5)


def test_the_refit_runs_less_than_three_dense_passes_through_the_data(monkeypatch):
    """One through the dense network and two through the cut one; convolutions are counted."""
    monkeypatch.setitem(TIMERS, "torch", lambda *_: 1.0)  # how often that runs the network depends on the clock
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


class Normed(nn.Module):
    """A stream with a row of huge values in every sample, normalised row by row before it is read."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.head(self.norm(x + self.outer(self.inner(x).relu())))


def test_rows_that_a_norm_makes_equal_count_equally(monkeypatch):
    torch.manual_seed(0)
    model = Normed().eval()
    data = torch.randn(96, 6, 8)
    data[:, 0] *= 100

    def error() -> float:
        small = mipp.prune(model, list(data[:64].split(16)), mipp.Budget(nodes=0.4), progress=False).model
        return float((small(data[64:]) - model(data[64:])).detach().square().mean())

    weighted = error()
    monkeypatch.setattr(RowNorm, "weigh", lambda self, rows: torch.ones(len(rows)))
    assert weighted < 0.8 * error()


def test_progress_counts_moving_on_to_a_layer_besides_solving_it(monkeypatch):
    """On maps of four times the size, rows per layer stay, and there are four times as many values to move."""
    found = []

    def note(_, items, what, total=None, costs=None):
        found.extend(costs or [])
        return items

    monkeypatch.setattr("mipp.runtime.progress.Bars.__call__", note)
    for side in (64, 128):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        mipp.prune(model, [torch.randn(32, 3, side, side)], mipp.Budget(nodes=0.5))
    small, large = found
    assert 2 < large / small <= 4
