"""A budget that cannot be met names one that can, and the report says what it exceeds."""

import pytest
import torch
from cases import CORE, inspected, named
from costs import counted, eliminations
from networks import Branch, prune_images, refusal

import mipp
from mipp.plan.allocation import allocate
from mipp.plan.cost import cost_of

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("budget", [{"macs": 1e-6}, {"params": 5}, {"nodes": 2, "min_keep": 3}, {"widths": {"0": 99}}])
def test_a_budget_that_cannot_be_met_is_refused_before_any_statistics(budget, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("statistics were computed")

    monkeypatch.setattr("mipp.methods.MIPP.plan", fail)
    message = refusal(mipp.InfeasibleBudgetError, budget=mipp.Budget(**budget))
    assert "expected" in message or "or more" in message


def test_the_smallest_value_named_can_be_met():
    message = refusal(mipp.InfeasibleBudgetError, budget=mipp.Budget(macs=1e-6))
    smallest = float(message.split("raise macs to ")[1].split(" ")[0])
    assert prune_images(budget=mipp.Budget(macs=smallest)).report.after.nodes == 2


def test_a_budget_that_cannot_be_met_names_one_that_can():
    message = refusal(budget=mipp.Budget(macs=0.9, min_keep=100))
    assert "raise macs to 1.000 or more" in message
    prune_images(budget=mipp.Budget(macs=1.0, min_keep=100))


class Own(mipp.methods.Random):
    """Notes what it likes in the plan."""

    def plan(self, task, budget):
        return mipp.PruningPlan.of(task.graph, task.model, {"0": (0, 1)}, "mine", sparsity=0.5)


def test_a_plan_carries_the_budget_that_was_given_and_the_report_says_what_it_exceeds():
    found = prune_images(method=Own(), budget=mipp.Budget(nodes=0.5))
    assert found.plan.budget == {"nodes": 0.5}
    assert [note for note in found.report.notes if "more than the 7 of the budget" in note]


@pytest.mark.parametrize(
    "wrong",
    [{"macs": 0.0}, {"macs": 1.5}, {"macs": -1}, {"params": 0}, {"nodes": True}, {"macs": "half"}, {"min_keep": -1},
     {"round_to": 0}, {"macs": float("nan")}, {"latency_ms": -1.0}],
)  # fmt: skip
def test_a_budget_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(mipp.InfeasibleBudgetError):
        mipp.Budget(**wrong)


@pytest.mark.parametrize("widths", [{"a": 9}, {"a": -1}])
def test_widths_outside_the_group_are_refused(widths):
    case = named("residual")
    with pytest.raises(mipp.InfeasibleBudgetError, match="'a'"):
        allocate(eliminations(case), cost_of(inspected(case)[1].graph), mipp.Budget(widths=widths))


def test_an_unknown_group_is_named_with_the_nearest_one():
    case = named("residual")
    with pytest.raises(mipp.MippError, match="stem"):
        allocate(eliminations(case), cost_of(inspected(case)[1].graph), mipp.Budget(widths={"stm": 2}))


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("name", ["residual", "cifar resnet", "concatenation", "few groups"])
@pytest.mark.parametrize("budget", [mipp.Budget(macs=0.5, params=0.6), mipp.Budget(nodes=0.6, min_keep=2)])
def test_the_report_says_what_the_cut_model_really_costs(method, name, budget):
    case = named(name)
    result = mipp.prune(case.model(), case.batches(), budget, mipp.methods.all()[method](), progress=False)
    after, before = counted(result.model, case), counted(case.model(), case)
    report = result.report
    assert (report.after.macs, report.after.params) == (after["macs"], after["params"])
    assert (report.before.macs, report.before.params) == (before["macs"], before["params"])
    assert report.after.nodes == sum(len(k) for k in result.plan.kept.values())
    for what in ("macs", "params"):
        if getattr(budget, what):
            assert after[what] <= getattr(budget, what) * before[what]
            assert report.slack[what] == pytest.approx(getattr(budget, what) - after[what] / before[what])
    assert all(len(kept) >= budget.min_keep for kept in result.plan.kept.values())


@pytest.mark.parametrize("method", CORE)
def test_a_run_with_min_keep_zero_lists_the_emptied_groups_and_counts_them(method):
    case = named("linear chain")
    result = mipp.prune(
        case.model(), case.batches(), mipp.Budget(nodes=1, min_keep=0), mipp.methods.all()[method](), progress=False
    )
    emptied = [n for n, kept in result.plan.kept.items() if not kept]
    assert list(result.plan.collapsed) == list(result.report.collapsed) == emptied
    assert len(emptied) == 1
    assert result.report.after.nodes == 1
    assert result.report.slack["nodes"] == 0.0
    assert result.report.after.macs == counted(result.model, case)["macs"]


def test_min_keep_holds_when_the_test_decides():
    case = named("residual")
    result = mipp.prune(
        case.model(),
        case.batches(),
        mipp.Budget(min_keep=3),
        mipp.methods.MIPP(confidence=0.999999, noise=100.0),
        progress=False,
    )
    assert all(len(kept) >= 3 for kept in result.plan.kept.values())


def images(count: int = 4) -> list[torch.Tensor]:
    return [torch.randn(8, 3, 6, 6) for _ in range(count)]


def test_two_limits_blame_the_one_that_cannot_hold():
    with pytest.raises(mipp.InfeasibleBudgetError, match="params"):
        mipp.prune(Branch(), images(), mipp.Budget(params=1, latency_ms=0.99), progress=False)
