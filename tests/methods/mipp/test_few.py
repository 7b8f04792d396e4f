"""Few nodes go in the order in which the outputs feel it least, where that is clear."""

import pytest
import torch
from torch import Tensor, nn

import mipp
from mipp.data.calibration import Calibration, read
from mipp.methods import MIPP
from mipp.methods.mipp import few
from mipp.methods.mipp.carried import measured
from mipp.methods.mipp.few import FEW, may_ask, order_by_outputs
from mipp.plan.elimination import Elimination
from mipp.plan.task import Task

DATA = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))


class Quiet(nn.Module):
    """A stream to which one unit adds little, which the outputs feel most."""

    def __init__(self, units: int = 4, loud: float = 1000.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loud, self.up, self.down = loud, nn.Linear(8, units, bias=False), nn.Linear(units, 8, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(torch.eye(8)[torch.arange(units) % 8])
            self.down.weight.copy_(torch.eye(8)[:, torch.arange(units) % 8])
            self.down.weight[0, 0] = 0.05

    def forward(self, x: Tensor) -> Tensor:
        stream = x + self.down(self.up(x).relu())
        return torch.cat([self.loud * (stream - x)[:, :1], stream[:, 1:]], 1)


def ordered(model: nn.Module, order: tuple[int, ...]) -> tuple[int, ...]:
    found = mipp.inspect(model, DATA[:4])
    task = Task(model, found.graph, found.cost, read(Calibration(list(DATA.split(64))), None))
    curve = Elimination(order, tuple(map(float, range(len(order) + 1))))
    return order_by_outputs(task, measured(task, 64).statistics, found.graph.groups["up"], curve)


def test_a_node_that_the_outputs_feel_goes_last():
    order = ordered(Quiet().eval(), (0, 1, 2, 3))
    assert sorted(order) == [0, 1, 2, 3]
    assert order[-1] == 0


def test_an_order_that_is_about_as_good_stays():
    for order in ((1, 2, 3, 0), (2, 1, 0, 3)):  # after half of it the outputs move as little as they can
        assert ordered(Quiet().eval(), order) == order


def test_two_or_three_nodes_and_many_are_not_asked_for():
    for size in (FEW.start - 1, FEW.stop):
        order = tuple(range(size))
        assert ordered(Quiet(size).eval(), order) == order


def test_where_the_model_cannot_be_run_op_by_op_the_order_stays(monkeypatch):
    def refuse(*_: object) -> None:
        raise mipp.UnsupportedModelError("no")

    monkeypatch.setattr(few, "Outputs", refuse)
    assert ordered(Quiet().eval(), (0, 1, 2, 3)) == (0, 1, 2, 3)


def test_all_processes_take_the_order_of_their_mean(monkeypatch):
    monkeypatch.setattr(few, "gather", lambda own: [own, own if isinstance(own, bool) else 0 * own])
    assert ordered(Quiet().eval(), (0, 1, 2, 3))[-1] == 0
    monkeypatch.setattr(few, "gather", lambda own: [own, False] if isinstance(own, bool) else [own])
    assert ordered(Quiet().eval(), (0, 1, 2, 3)) == (0, 1, 2, 3)


@pytest.mark.parametrize(("worth", "stays"), [("nats", False), ("outputs", True), ("auto", False)])
def test_they_are_asked_where_their_worth_is_believed_wholly(worth, stays):
    result = mipp.prune(Quiet().eval(), [DATA], mipp.Budget(widths={"up": 1}), MIPP(worth=worth), progress=False)
    assert (result.plan.kept["up"] == (0,)) == stays
    whole, information = result.plan.information["up"][1], MIPP(worth="nats")
    assert whole == pytest.approx(
        mipp.prune(Quiet().eval(), [DATA], mipp.Budget(widths={"up": 1}), information, progress=False).plan.information[
            "up"
        ][1],
        rel=0.05,
    )


@pytest.mark.parametrize(("samples", "expected"), [(1, False), (2, False), (3, True), (256, True)])
def test_nodes_are_asked_for_where_a_first_look_takes_three_passes_at_most(samples, expected):
    """Five runs of what is behind four nodes, seven of nine ops, on two samples: of three, 2.6 passes over all."""
    model = Quiet().eval()
    found = mipp.inspect(model, DATA[:4])
    task = Task(model, found.graph, found.cost, read(Calibration([DATA[:samples]]), None))
    start = min(found.graph.program.start_of(site.op) for site in found.graph.readers(found.graph.groups["up"]))
    share = 1 - start / len(found.graph.program.ops)
    assert expected == (5 * share * 2 / samples <= 3)
    assert may_ask(task) == expected
