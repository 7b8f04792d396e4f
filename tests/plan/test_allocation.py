"""Law 7: budgets hold, from below and without waste."""

import re

import numpy as np
import pytest
import torch
from cases import inspected, named
from costs import cut_to, eliminations, few, timed
from hypothesis import given
from hypothesis import strategies as st

import mipp
from mipp.plan.allocation import allocate, check_budget
from mipp.plan.cost import cost_of
from mipp.plan.elimination import Elimination
from mipp.plan.latency import LayerTimes

pytestmark = pytest.mark.usefixtures("quick")


NAMES = ["linear chain", "conv flatten linear", "residual", "cifar resnet", "concatenation", "few groups", "depthwise",
         "gated linear unit", "tied weights", "channel shuffle"]  # fmt: skip


some = pytest.mark.parametrize("name", NAMES)


@some
@pytest.mark.parametrize("unit", ["cost", "node"])
@few(5)
@given(
    macs=st.none() | st.floats(0.25, 1.0),
    params=st.none() | st.floats(0.3, 1.0),
    nodes=st.none() | st.floats(0.5, 1.0),
    seed=st.integers(0, 100),
)
def test_every_constraint_holds_and_no_node_more_would_fit(name, unit, macs, params, nodes, seed):
    """Counted on the cut model, not with the library's own costs; several constraints at once."""
    case = named(name)
    found = inspected(case)[1]
    cost, budget = cost_of(found.graph), mipp.Budget(macs=macs, params=params, nodes=nodes)
    try:
        widths = allocate(eliminations(case, seed), cost, budget, unit).widths
    except mipp.InfeasibleBudgetError:
        smallest = cut_to(case, dict.fromkeys(found.groups, 1))
        dense = cut_to(case, {n: g.size for n, g in found.groups.items()})
        wanted = {"macs": macs, "params": params, "nodes": nodes}
        assert any(f is not None and smallest[n] > f * dense[n] for n, f in wanted.items())
        return
    dense = cut_to(case, {n: g.size for n, g in found.groups.items()})
    limits = {n: f * dense[n] for n, f in (("macs", macs), ("params", params), ("nodes", nodes)) if f is not None}
    reached = cut_to(case, widths)
    assert all(reached[n] <= limit * (1 + 1e-9) for n, limit in limits.items())
    assert all(w >= 1 for w in widths.values())
    for group, node_group in found.groups.items():
        if widths[group] < node_group.size:
            more = cut_to(case, {**widths, group: widths[group] + 1})
            assert any(more[n] > limit for n, limit in limits.items()), f"one more node of {group} fits"


@pytest.mark.parametrize("what", ["macs", "params", "nodes"])
def test_an_int_is_absolute_and_a_float_is_a_fraction(what):
    case = named("residual")
    cost = cost_of(inspected(case)[1].graph)
    dense = round(cost.dense(what))
    given_int = allocate(eliminations(case), cost, mipp.Budget(**{what: dense // 2}))
    given_float = allocate(eliminations(case), cost, mipp.Budget(**{what: (dense // 2) / dense}))
    assert given_int.widths == given_float.widths
    assert cut_to(case, given_int.widths)[what] <= dense // 2
    assert allocate(eliminations(case), cost, mipp.Budget(**{what: 10**9})).widths == {
        n: g.size for n, g in inspected(case)[1].groups.items()
    }


@some
@few(5)
@given(round_to=st.integers(1, 4), min_keep=st.integers(1, 3), fraction=st.floats(0.6, 1.0), seed=st.integers(0, 50))
def test_widths_are_multiples_and_respect_the_smallest(name, round_to, min_keep, fraction, seed):
    """A width is a multiple of `round_to`, or whole, or the group is narrower than `round_to`."""
    case = named(name)
    found = inspected(case)[1]
    budget = mipp.Budget(nodes=fraction, round_to=round_to, min_keep=min_keep)
    try:
        widths = allocate(eliminations(case, seed), cost_of(found.graph), budget).widths
    except mipp.InfeasibleBudgetError:
        return
    for group, width in widths.items():
        size = found.groups[group].size
        assert width % round_to == 0 or width == size or size < round_to
        assert min(min_keep, size) <= width <= size
    assert sum(widths.values()) <= fraction * found.num_nodes * (1 + 1e-12)  # the product is rounded


def test_uniform_gives_groups_of_one_kind_one_width():
    blocks = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(4)).double()

    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.first, self.last = blocks, torch.nn.Linear(4, 6).double(), torch.nn.Linear(6, 2).double()

        def forward(self, x):
            x = self.first(x).relu()
            for block in self.blocks:
                x = block(x).relu()
            return self.last(x)

    found = mipp.inspect(Stack(), torch.randn(2, 4).double())
    g = torch.Generator().manual_seed(0)
    elims = {
        n: Elimination(tuple(range(6)), (0.0, *torch.rand(6, generator=g).cumsum(0).tolist())) for n in found.groups
    }
    cost = cost_of(found.graph)
    free = allocate(elims, cost, mipp.Budget(params=0.5)).widths
    same = allocate(elims, cost, mipp.Budget(params=0.5, uniform=True)).widths
    assert len({free[f"blocks.{i}"] for i in range(4)}) > 1
    assert len({same[f"blocks.{i}"] for i in range(4)}) == 1
    assert cost.quantities["params"](cost.widths(same)) <= 0.5 * cost.dense("params")


def test_widths_are_as_asked_and_only_the_others_move():
    case = named("residual")
    cost = cost_of(inspected(case)[1].graph)
    assert allocate(eliminations(case), cost, mipp.Budget(widths={"a": 2})).widths == {"stem": 5, "a": 2}
    both = allocate(eliminations(case), cost, mipp.Budget(widths={"a": 2}, macs=0.3))
    assert both.widths["a"] == 2
    assert both.widths["stem"] < 5


def test_removals_go_where_they_cost_least():
    """One group carries all information, the other none."""
    case = named("linear chain")
    cost = cost_of(inspected(case)[1].graph)
    elims = {"0": Elimination(tuple(range(6)), (0.0,) * 7), "2": Elimination(tuple(range(5)), tuple(range(6)))}
    for unit in ("cost", "node"):
        widths = allocate(elims, cost, mipp.Budget(nodes=6), unit).widths
        assert widths == {"0": 1, "2": 5}


def test_ties_are_deterministic():
    case = named("concatenation")
    cost = cost_of(inspected(case)[1].graph)
    flat = {n: Elimination(tuple(range(g.size)), (0.0,) * (g.size + 1)) for n, g in inspected(case)[1].groups.items()}
    first = [allocate(flat, cost, mipp.Budget(params=0.5)).widths for _ in range(2)]
    assert first[0] == first[1]


@pytest.mark.parametrize("what", ["macs", "params", "nodes"])
@pytest.mark.parametrize("options", [{}, {"min_keep": 2}, {"round_to": 2}])
@some
def test_an_impossible_budget_names_the_smallest_possible(name, what, options):
    """With the value it names the budget can be met; with one clearly below it cannot."""
    case = named(name)
    found = inspected(case)[1]
    cost = cost_of(found.graph)
    if what == "nodes" and len(found.groups) == 1 and options != {"min_keep": 2}:
        pytest.skip("one node is enough for one group")
    with pytest.raises(mipp.InfeasibleBudgetError) as caught:
        allocate(eliminations(case), cost, mipp.Budget(**{what: 1}, **options))
    named_value = float(re.search(rf"raise {what} to ([0-9.]+)", str(caught.value))[1])
    allocate(eliminations(case), cost, mipp.Budget(**{what: named_value}, **options))
    if named_value > 0.002:
        with pytest.raises(mipp.InfeasibleBudgetError):
            allocate(eliminations(case), cost, mipp.Budget(**{what: named_value - 0.002}, **options))


def test_emptied_groups_need_min_keep_zero():
    case = named("linear chain")
    found = inspected(case)[1]
    cost = cost_of(found.graph)
    widths = allocate(eliminations(case), cost, mipp.Budget(nodes=1, min_keep=0)).widths
    assert sorted(widths.values()) == [0, 1]
    with pytest.raises(mipp.InfeasibleBudgetError):
        allocate(eliminations(case), cost, mipp.Budget(nodes=1))
    with pytest.raises(mipp.InfeasibleBudgetError):  # min_keep=1 holds for explicit widths too
        allocate(eliminations(case), cost, mipp.Budget(widths={"0": 0}))


@few(15)
@given(share=st.floats(0.6, 0.9), slower=st.floats(0.6, 1.6), seed=st.integers(0, 20))
def test_a_latency_budget_holds_as_measured_where_the_table_is_wrong(share, slower, seed):
    cost = timed("cifar resnet")

    def latency(widths):
        return slower * cost.value("latency_ms", cost.widths(widths))

    limit = share * slower * cost.dense("latency_ms")
    budget = mipp.Budget(latency_ms=1.0 + limit)
    found = allocate(eliminations(named("cifar resnet"), seed), cost, budget, measure=lambda _, w: 1.0 + latency(w))
    assert 1.0 + latency(found.widths) <= 1.0 + limit
    assert found.slack["latency_ms"] >= 0


def test_milliseconds_are_the_price_not_macs():
    """A group that costs MACs but no time stays whole, however little it carries."""
    case = named("linear chain")
    graph = inspected(case)[1].graph
    ops = sorted({work.op for work in graph.macs})
    layers, grid = tuple((op,) for op in ops), np.array([[0.0, 1e6]] * len(ops))
    slow = np.array([[0.0, 1e3 if op == ops[0] else 0.0] for op in ops])
    cost = cost_of(graph, LayerTimes(layers, grid, slow))
    first, last = cost.groups[0], cost.groups[-1]
    cheap = {**eliminations(case), last: Elimination(tuple(range(6)), tuple(1e-9 * k for k in range(7)))}
    found = allocate(
        cheap, cost, mipp.Budget(latency_ms=0.5), measure=lambda _, w: cost.value("latency_ms", cost.widths(w))
    )
    assert found.widths[first] <= 0.5 * graph.groups[first].size
    assert found.widths[last] == graph.groups[last].size


def test_an_impossible_latency_is_found_before_anything_is_measured_of_the_data():
    cost = timed("linear chain")
    with pytest.raises(mipp.InfeasibleBudgetError, match="latency_ms to 0"):
        check_budget(mipp.Budget(latency_ms=1e-6), cost)
    check_budget(mipp.Budget(latency_ms=0.9), cost)


def test_a_latency_that_the_machine_does_not_keep_is_told():
    cost = timed("linear chain")
    with pytest.raises(mipp.InfeasibleBudgetError, match="the fastest of the networks tried takes 70"):
        allocate(eliminations(named("linear chain")), cost, mipp.Budget(latency_ms=0.9), measure=lambda _, widths: 70.0)
    with pytest.raises(mipp.InfeasibleBudgetError, match="needs a measured network"):
        allocate(eliminations(named("linear chain")), cost, mipp.Budget(latency_ms=0.9))
