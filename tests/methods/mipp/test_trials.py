"""Plans by trial: what is kept comes nearer to the dense outputs, within the budget."""

import json
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import mipp
from mipp.data.calibration import Calibration, read
from mipp.errors import MippError
from mipp.methods import MIPP
from mipp.methods.mipp import trials
from mipp.methods.mipp.worth import output_distance
from mipp.plan.task import Task


class Branches(nn.Module):
    """Two branches alike, of which the outputs feel one a hundred times as much."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loud, self.soft = (nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 4)) for _ in range(2))
        self.soft.load_state_dict(self.loud.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.loud(x[:, :8]), 0.01 * self.soft(x[:, 8:])], 1).sum(1)


class Unsteady(nn.Module):
    """Two layers, which a test says cannot be run op by op."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


DATA = torch.randn(256, 16, generator=torch.Generator().manual_seed(1))


def pruned(budget: mipp.Budget, number: int, **options: object) -> mipp.Result:
    return mipp.prune(Branches().eval(), [DATA], budget, MIPP(trials=number), progress=False, **options)


def distance(result: mipp.Result) -> float:
    with torch.no_grad():
        return output_distance([result.model(DATA)], [Branches().eval()(DATA)])


def test_what_the_outputs_feel_gets_nodes_of_what_they_do_not():
    before, after = (pruned(mipp.Budget(nodes=0.5), number) for number in (0, 30))
    assert after.plan.widths["loud.0"] >= before.plan.widths["loud.0"] + 4
    assert sum(after.plan.widths.values()) <= 20
    assert distance(after) < 0.5 * distance(before)


def test_nodes_are_chosen_for_the_first_plan_and_for_each_other_widths_that_are_tried(monkeypatch):
    monkeypatch.setattr(trials, "_distance", lambda task, plan: float(plan.widths["soft.0"]))
    with patch.object(MIPP, "_by_width", autospec=True, side_effect=MIPP._by_width) as choose:
        pruned(mipp.Budget(nodes=0.5), 4, compensate=False)
    assert choose.call_count == 1 + 4
    assert len({json.dumps(call.args[4]) for call in choose.call_args_list}) == 1 + 4


def test_nodes_change_places_until_no_exchange_helps(monkeypatch):
    monkeypatch.setattr(trials, "_distance", lambda task, plan: float(sum(plan.kept["loud.0"])))
    budget = mipp.Budget(nodes=0.5, widths={"soft.0": 10})
    before, after = (pruned(budget, number, compensate=False).plan for number in (0, 10_000))
    assert after.kept["loud.0"] == tuple(range(10)) != before.kept["loud.0"]
    assert after.kept["soft.0"] == before.kept["soft.0"]
    assert before.information.keys() - after.information.keys() == {"loud.0"}


def test_two_moves_at_once_are_tried_where_none_helps_alone(monkeypatch):
    monkeypatch.setattr(trials, "_distance", lambda task, plan: {10: 1.0, 12: 0.5}.get(plan.widths["loud.0"], 2.0))
    widths = [pruned(mipp.Budget(nodes=0.5), number, compensate=False).plan.widths["loud.0"] for number in (0, 30)]
    assert widths == [10, 12]


@pytest.mark.parametrize("number", [1, 2, 5, 12])
def test_more_trials_are_never_further_from_the_dense_network(number):
    distances = [distance(pruned(mipp.Budget(nodes=0.5), count)) for count in (number, number + 1)]
    assert distances[1] <= distances[0] * (1 + 1e-6)


def test_one_network_is_refitted_to_start_with_and_one_a_trial():
    with patch.object(trials, "refit", wraps=trials.refit) as refit:
        pruned(mipp.Budget(nodes=0.5), 3)
    assert refit.call_count == 1 + 3


@pytest.mark.parametrize(
    "budget",
    [
        mipp.Budget(macs=0.4, round_to=4),
        mipp.Budget(nodes=0.5, min_keep=9),
        mipp.Budget(params=0.6, nodes=0.5),
        mipp.Budget(nodes=0.5, widths={"soft.0": 8}),
    ],
)
def test_the_budget_holds(budget):
    result = pruned(budget, 30)
    widths, cost = result.plan.widths, mipp.inspect(Branches(), DATA[:2]).cost
    for name, limit in budget.limits(cost).items():
        assert cost.value(name, cost.widths(widths)) <= limit * (1 + 1e-9)
    assert all(width % budget.round_to == 0 and width >= budget.min_keep for width in widths.values())
    assert budget.widths.items() <= widths.items()


@pytest.mark.parametrize("budget", [mipp.Budget(nodes=0.5, uniform=True), mipp.Budget(widths={"loud.0": 5})])
def test_uniform_and_given_widths_stay(budget):
    with patch.object(trials, "refit", side_effect=AssertionError):
        found = [pruned(budget, number, compensate=False).plan for number in (0, 30)]
    assert found[0].kept == found[1].kept


def test_trials_that_a_run_has_finished_are_not_made_again():
    model = Branches().eval()
    found = mipp.inspect(model, DATA[:4])
    task = Task(model, found.graph, found.cost, read(Calibration([DATA]), None))
    plan = partial(MIPP(trials=6).plan, budget=mipp.Budget(nodes=0.5))
    first = plan(task)
    with patch.object(trials, "refit", side_effect=AssertionError):
        assert plan(replace(task)).kept == first.kept


def test_a_network_that_cannot_be_refitted_keeps_the_widths_it_had_and_the_report_says_so():
    model = Unsteady().eval()
    found = mipp.inspect(model, DATA[:4])
    task = Task(model, found.graph, found.cost, read(Calibration([DATA]), None))
    task.graph.program.not_replayable = "it is not steady"
    plan = MIPP(trials=6).plan(task, mipp.Budget(nodes=0.5))
    assert plan.kept == MIPP().plan(task, mipp.Budget(nodes=0.5)).kept
    assert any("No other widths were tried" in note and "it is not steady" in note for note in task.notes)


def test_trials_are_a_whole_number():
    with pytest.raises(MippError, match="trials"):
        MIPP(trials=-1)
