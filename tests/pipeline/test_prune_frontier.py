"""`mipp.frontier`: several budgets from one set of statistics, each with the result of `prune`."""

import pytest
import torch
from cases import assert_same, named

import mipp
from mipp.methods import all as methods
from mipp.statistics import observing as activations

pytestmark = pytest.mark.usefixtures("quick")


BUDGETS = [mipp.Budget(macs=0.7), mipp.Budget(nodes=0.5), mipp.Budget(macs=0.4, round_to=2)]


@pytest.mark.parametrize("method", ["mipp", "l1", "random", "wanda", "thinet", "interpolative", "reinit"])
@pytest.mark.parametrize("name", ["residual", "linear chain"])
def test_each_result_is_that_of_prune(name, method):
    case = named(name)
    model, data, chosen = case.model(), case.batches(), methods()[method]()
    together = mipp.frontier(model, data, BUDGETS, chosen, seed=3, progress=False)
    for budget, result in zip(BUDGETS, together, strict=True):
        alone = mipp.prune(model, data, budget, chosen, seed=3, progress=False)
        assert result.plan == alone.plan
        assert result.report.notes == alone.report.notes
        assert_same(list(result.model.state_dict().values()), list(alone.model.state_dict().values()), rtol=0)


def test_the_data_are_read_once_and_measured_once(monkeypatch):
    case, passes, seen = named("residual"), [], []
    measure = activations.site_statistics
    monkeypatch.setattr(
        "mipp.methods.mipp.carried.site_statistics", lambda *a, **k: passes.append(1) or measure(*a, **k)
    )
    batches = (batch for batch in case.batches())
    results = mipp.frontier(case.model(), batches, BUDGETS, evaluate=lambda m: seen.append(m) or 1.0, progress=False)
    assert len(passes) == 1
    assert len(seen) == 1 + len(results)


def test_what_is_noted_of_the_statistics_is_in_each_report():
    model, data = (
        torch.nn.Sequential(torch.nn.Linear(6, 300), torch.nn.ReLU(), torch.nn.Linear(300, 3)),
        [torch.randn(50, 6)],
    )
    results = mipp.frontier(model, data, BUDGETS[:2], memory_limit="200kB", progress=False)
    assert results[0].report.notes == results[1].report.notes != ()


def test_no_budget_is_measured_when_one_cannot_be_met():
    case = named("residual")
    with pytest.raises(mipp.InfeasibleBudgetError):
        mipp.frontier(case.model(), case.batches(), [mipp.Budget(macs=0.5), mipp.Budget(macs=1e-6)], progress=False)


def test_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(mipp.MippError, match="each budget"):
        mipp.frontier(named("residual").model(), [], BUDGETS, checkpoint=tmp_path, progress=False)
