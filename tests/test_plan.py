"""Law 7: budgets hold, from below and without waste; plans are plain data that refuse what does not fit."""

import json
import re

import numpy as np
import pytest
import torch
from cases import CORE, PRUNABLE, Case, Keep, call, inspected, named, plan_for
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import mipp
from mipp.plan import allocate, check_budget
from mipp.plan.cost import LayerTimes, cost_of
from mipp.plan.elimination import Elimination

pytestmark = pytest.mark.usefixtures("quick")
NAMES = ["linear chain", "conv flatten linear", "residual", "cifar resnet", "concatenation", "few groups", "depthwise",
         "gated linear unit", "tied weights", "channel shuffle"]  # fmt: skip
some = pytest.mark.parametrize("name", NAMES)
prunable = pytest.mark.parametrize("case", PRUNABLE, ids=str)


def few(examples: int):
    return settings(max_examples=examples, phases=[Phase.explicit, Phase.generate])


def counted(model, case: Case) -> dict[str, int]:
    """MACs per sample and parameters by an independent count (torch reports 2 FLOPs per MAC)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(model, case.batch(2))
    return {"macs": counter.get_total_flops() // 4, "params": sum(p.numel() for p in model.parameters())}


def eliminations(case: Case, seed: int = 0) -> dict[str, Elimination]:
    """Random orders with random increasing losses."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, group in inspected(case)[1].groups.items():
        loss = torch.rand(group.size, generator=g, dtype=torch.float64).sort().values.cumsum(0)
        order = torch.randperm(group.size, generator=g).tolist()
        found[name] = Elimination(tuple(order), (0.0, *loss.tolist()))
    return found


def cut_to(case: Case, widths) -> dict[str, int]:
    model, _ = inspected(case)
    nodes = {"nodes": sum(widths.values())}
    return counted(mipp.apply(plan_for(case, {n: range(w) for n, w in widths.items()}), model), case) | nodes


# --- cost -------------------------------------------------------------------------------------------------------------


@prunable
@few(3)
@given(data=st.data())
def test_costs_agree_with_an_independent_count_of_the_cut_model(case, data):
    _, found = inspected(case)
    widths = {n: data.draw(st.integers(1, g.size), label=n) for n, g in found.groups.items()}
    expected = cut_to(case, widths)
    cost = cost_of(found.graph)
    at = cost.widths(widths)
    assert cost.quantities["params"](at) == expected["params"]
    assert cost.quantities["nodes"](at) == expected["nodes"]
    if case.counted:
        assert cost.quantities["macs"](at) == expected["macs"]


@prunable
def test_the_marginal_cost_of_a_node_is_the_difference(case):
    cost = cost_of(inspected(case)[1].graph)
    for name, quantity in cost.quantities.items():
        base = cost.sizes - 1
        slopes = quantity.per_group(base)
        for i in range(len(base)):
            more = base.copy()
            more[i] += 1e-6  # a group may meet itself, so only the derivative is the same
            assert (quantity(more) - quantity(base)) / 1e-6 == pytest.approx(slopes[i], rel=1e-4), name


# --- allocation -------------------------------------------------------------------------------------------------------


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
    assert sum(widths.values()) <= fraction * found.num_nodes


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


# --- latency ----------------------------------------------------------------------------------------------------------


def timed(name: str, ms=lambda macs: 1e-3 + 1e-4 * macs):
    """A case's costs with a table in which a layer of so many MACs takes `ms` of it."""
    graph = inspected(named(name))[1].graph
    layers = tuple((op,) for op in sorted({work.op for work in graph.macs}))
    grid = np.linspace(0, 1e6, 2001)[None].repeat(len(layers), 0)
    return cost_of(graph, LayerTimes(layers, grid, ms(grid)))


@few(15)
@given(share=st.floats(0.6, 0.9), slower=st.floats(0.6, 1.6), seed=st.integers(0, 20))
def test_a_latency_budget_holds_as_measured_where_the_table_is_wrong(share, slower, seed):
    cost = timed("cifar resnet")

    def latency(widths):
        return slower * cost.value("latency_ms", cost.widths(widths))

    limit = share * slower * cost.dense("latency_ms")
    budget = mipp.Budget(latency_ms=1.0 + limit)
    found = allocate(eliminations(named("cifar resnet"), seed), cost, budget, latency=lambda w: 1.0 + latency(w))
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
        cheap, cost, mipp.Budget(latency_ms=0.5), latency=lambda w: cost.value("latency_ms", cost.widths(w))
    )
    assert found.widths[first] <= 0.5 * graph.groups[first].size
    assert found.widths[last] == graph.groups[last].size


@pytest.mark.parametrize("name", ["linear chain", "residual", "cifar resnet"])
def test_latency_is_the_sum_over_layers_and_its_slope_the_difference(name):
    cost = timed(name)
    latency, macs = cost.quantities["latency_ms"], cost.quantities["macs"]
    layers = len(latency.times.layers)
    for widths in (cost.sizes, np.maximum(cost.sizes // 2, 1)):
        assert latency(widths) == pytest.approx(1e-3 * layers + 1e-4 * macs(widths), rel=1e-9)
        assert latency.per_group(widths) == pytest.approx(1e-4 * macs.per_group(widths), rel=1e-6)


def test_an_impossible_latency_is_found_before_anything_is_measured_of_the_data():
    cost = timed("linear chain")
    with pytest.raises(mipp.InfeasibleBudgetError, match="latency_ms to 0"):
        check_budget(mipp.Budget(latency_ms=1e-6), cost)
    check_budget(mipp.Budget(latency_ms=0.9), cost)


def test_a_latency_that_the_machine_does_not_keep_is_told():
    cost = timed("linear chain")
    with pytest.raises(mipp.InfeasibleBudgetError, match="the fastest of the networks tried takes 70"):
        allocate(eliminations(named("linear chain")), cost, mipp.Budget(latency_ms=0.9), latency=lambda widths: 70.0)
    with pytest.raises(mipp.InfeasibleBudgetError, match="needs a measured network"):
        allocate(eliminations(named("linear chain")), cost, mipp.Budget(latency_ms=0.9))


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


# --- whole runs -------------------------------------------------------------------------------------------------------


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


# --- plans as data ----------------------------------------------------------------------------------------------------


@prunable
@few(3)
@given(data=st.data())
def test_json_round_trip_keeps_everything(case, data):
    model, found = inspected(case)
    kept = {n: data.draw(st.sets(st.integers(0, g.size - 1)), label=n) for n, g in found.groups.items()}
    plan = plan_for(case, kept)
    again = mipp.PruningPlan.from_dict(json.loads(plan.to_json()))
    assert again == plan
    assert again.to_dict() == plan.to_dict()
    assert again.kept == plan.kept
    assert again.collapsed == tuple(n for n, nodes in kept.items() if not nodes)
    small, expected = mipp.apply(again, model), mipp.apply(plan, model)
    pairs = zip(small.state_dict().values(), expected.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_plan_of_a_run_survives_json_with_its_record():
    case = named("residual")
    result = mipp.prune(case.model(), case.batches(), mipp.Budget(macs=0.5), progress=False)
    again = mipp.PruningPlan.from_dict(json.loads(result.plan.to_json()))
    assert again == result.plan
    assert again.method == repr(mipp.methods.MIPP())
    assert again.budget == {"macs": 0.5}
    assert again.information.keys() == result.plan.kept.keys()
    for lost, whole in again.information.values():
        assert 0 <= lost <= whole


@pytest.mark.parametrize("nodes", [[0, 0], [2, 1], [-1], [5], [0, 99]])
def test_indices_that_do_not_fit_are_refused(nodes):
    plan = plan_for(named("residual"), {})
    data = plan.to_dict()
    data["kept"]["stem"] = nodes
    with pytest.raises(mipp.PlanMismatchError, match="stem"):
        mipp.PruningPlan.from_dict(data)


@pytest.mark.parametrize("part", ["format", "kept", "groups", "tensors", "attributes"])
def test_a_damaged_plan_is_refused(part):
    for damage in ("missing", "wrong"):
        data = plan_for(named("residual"), {}).to_dict()
        if damage == "missing":
            del data[part]
        else:
            data[part] = 3
        with pytest.raises(mipp.PlanMismatchError):
            mipp.PruningPlan.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "plan", {}, 3])
def test_what_is_no_plan_is_refused(data):
    with pytest.raises(mipp.PlanMismatchError):
        mipp.PruningPlan.from_dict(data)


def test_a_plan_names_the_first_tensor_that_does_not_fit():
    case = named("residual")
    plan = plan_for(case, {"a": (0, 1)})
    for change, name in (
        (lambda m: setattr(m, "bn1", torch.nn.BatchNorm2d(9)), "bn1.weight"),
        (lambda m: delattr(m, "out"), "out.weight"),
        (lambda m: m.register_buffer("extra", torch.zeros(2)), "extra"),
    ):
        other = case.model()
        change(other)
        for function in (mipp.apply, mipp.mask):
            with pytest.raises(mipp.PlanMismatchError, match=re.escape(f"'{name}'")):
                function(plan, other)


def test_edited_plans_can_be_replayed():
    case = named("residual")
    model, _ = inspected(case)
    plan = plan_for(case, {"a": (0, 1)}).with_kept({"a": [3, 0]})
    assert plan.kept["a"] == (0, 3)
    assert torch.equal(mipp.apply(plan, model).a.weight, model.a.weight[[0, 3]])


def test_equal_plans_are_equal_and_hash_alike():
    case = named("residual")
    first, second, third = (plan_for(case, {"a": k}) for k in ((0, 1), (0, 1), (0, 2)))
    assert first == second
    assert hash(first) == hash(second)
    assert first != third
    assert first != "plan"


def test_a_plan_names_unknown_groups():
    with pytest.raises(mipp.MippError, match="stm"):
        plan_for(named("residual"), {"stm": (0,)})


def test_a_method_may_return_weights_with_its_plan():
    """`(plan, state_dict)`: what is cut are those weights, and the model given keeps its own."""
    case = named("linear chain")
    model = case.model()
    state = {n: torch.full_like(t, 0.25) for n, t in model.state_dict().items()}

    class Rewinding(Keep):
        def plan(self, task, budget):
            return super().plan(task, budget), state

    before = {n: t.clone() for n, t in model.state_dict().items()}
    small = mipp.prune(
        model, case.batches(), mipp.Budget(), Rewinding({"0": (0, 1)}), compensate=False, progress=False
    ).model
    assert all(bool((t == 0.25).all()) for t in small.state_dict().values())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["kept"].pop("stem"),
        lambda data: data["kept"].update(stem=[0.5, 1.5]),
        lambda data: data["tensors"].pop("stem.weight"),
        lambda data: data["groups"]["stem"]["slices"][0].__setitem__(1, 7),
        lambda data: data["groups"]["stem"]["slices"][0].__setitem__(0, "none"),
    ],
)
def test_a_plan_whose_nodes_are_nowhere_is_refused(damage):
    data = plan_for(named("residual"), {}).to_dict()
    damage(data)
    with pytest.raises(mipp.PlanMismatchError, match=r"stem|damaged"):
        mipp.PruningPlan.from_dict(data)
