"""Kinds of budgets: what is counted is what networks of these widths take, and every part of the library takes them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CASES, Case, inspected, named, plan_for
from torch import Tensor

import mipp
from mipp.data.calibration import as_call
from mipp.graph.call import Call
from mipp.graph.trace import OpStream, run
from mipp.graph.trees import leaves, results_in
from mipp.grid.run import COSTS
from mipp.modules.copies import working_copy
from mipp.plan.registry import CONSTRAINTS


class Held(OpStream):
    """Watches a real pass: the bytes of every storage that depends on the inputs, and the ops that make and read it."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.time, self.alive = 0, []  # nothing is freed, so that no storage gets the place of another
        self.size, self.first, self.last = {}, {}, {}
        self.hold(inputs)

    def hold(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            self.alive.append(tensor)
            self.size[key] = tensor.untyped_storage().nbytes()
            self.first.setdefault(key, self.time)
            self.last[key] = self.time

    def on_op(self, func, args, kwargs):
        given = leaves((args, tuple(kwargs.values())), Tensor)
        out = func(*args, **kwargs)
        read = [t for t in given if t.untyped_storage()._cdata in self.size]
        weights = {t.untyped_storage()._cdata for t in given} - self.size.keys()
        made = [t for t in leaves(out, Tensor) if t.untyped_storage()._cdata not in weights]
        self.hold([*read, *(made if read or not given else [])])
        self.alive.append(out)
        self.time += 1
        return out


def peak(model: torch.nn.Module, call: Call) -> int:
    model, call = working_copy(model), call.map(torch.clone)
    held = Held(call.tensors)
    with held:
        out = run(model, call)
    held.last |= {tensor.untyped_storage()._cdata: held.time for tensor in results_in(out)}
    spans = [(held.first[key], held.last[key], size) for key, size in held.size.items()]
    return max(sum(size for first, last, size in spans if first <= t <= last) for t in range(held.time))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_peak_of_activations_is_that_of_the_cut_network(case: Case):
    model, found = inspected(case)
    call, generator = as_call(case.batch(2)), np.random.default_rng(0)
    widths = {name: int(generator.integers(1, group.size + 1)) for name, group in found.graph.groups.items()}
    small = mipp.apply(plan_for(case, {name: range(width) for name, width in widths.items()}), model)
    expected = peak(small, call) / found.graph.batch
    assert found.cost.value("activations", found.cost.widths(widths)) == expected


@pytest.mark.parametrize("name", ["linear chain", "residual", "cifar resnet"])
def test_one_node_less_saves_what_the_peak_falls_by_while_it_stays_where_it_is(name):
    cost = inspected(named(name))[1].cost
    value, slopes = cost.value("activations", cost.sizes), cost.per_group("activations", cost.sizes)
    for group, slope in enumerate(slopes):
        fewer = cost.sizes.copy()
        fewer[group] -= 1
        assert cost.value("activations", fewer) >= value - slope - 1e-9
    assert (slopes >= 0).all()
    assert slopes.any()


@pytest.mark.usefixtures("quick")
def test_a_budget_of_activations_goes_through_prune_frontier_inspect_and_report(tmp_path):
    case = named("cifar resnet")
    model, data = case.model(), case.batches()
    budgets = [mipp.Budget(activations=0.8), mipp.Budget(activations=0.7, macs=0.9)]
    for budget, result in zip(budgets, mipp.frontier(model, data, budgets, progress=False), strict=True):
        before, after = result.report.before.activations, result.report.after.activations
        assert after <= budget.activations * before
        call = as_call(case.batch(2))
        assert after == round(peak(result.model, call) / 2)
    assert before == mipp.inspect(model, case.batch(2)).to_dict()["activations"]
    assert f"activations={0.7}" in str(result.report)
    assert "activations" in str(result.report)
    result.report.to_html(tmp_path / "page.html")
    assert "activations" in (tmp_path / "page.html").read_text()
    assert result.report.to_dict()["after"]["activations"] == after
    absolute = mipp.prune(model, data, mipp.Budget(activations=int(after)), progress=False)
    assert absolute.report.after.activations <= after
    with pytest.raises(mipp.InfeasibleBudgetError, match="raise activations to"):
        mipp.prune(model, data, mipp.Budget(activations=1), progress=False)


def test_a_report_of_a_version_that_knew_no_activations_is_read():
    saved = Path(__file__).parents[1] / "fixtures" / "saved_0_1_0" / "report.json"
    data = json.loads(saved.read_text())
    assert mipp.report.Report.from_dict(data).before.activations is None


def test_every_kind_is_a_field_of_the_budget_and_of_the_measures():
    for name, constraint in CONSTRAINTS.items():
        assert getattr(mipp.Budget(**{name: 0.5}), name) == 0.5
        assert hasattr(mipp.report.Measures(1, 1, 1, 1.0, {}), name)
        assert constraint.is_estimated or name in COSTS
