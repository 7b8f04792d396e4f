"""Plans are plain data that refuse what does not fit."""

import json
import re

import numpy as np
import pytest
import torch
from cases import PRUNABLE, Keep, inspected, named, plan_for
from costs import few
from hypothesis import given
from hypothesis import strategies as st
from networks import prune_images, refused

import mipp

pytestmark = pytest.mark.usefixtures("quick")


prunable = pytest.mark.parametrize("case", PRUNABLE, ids=str)


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
    assert again.method == repr(mipp.methods.MIPP(steps=1, noise=1.0))  # which half of the MACs takes
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


def test_of_nodes_that_were_put_in_no_information_is_claimed():
    plan = prune_images(budget=mipp.Budget(nodes=0.5)).plan
    first, *others = plan.information
    moved = {*plan.kept[first][1:], min({*range(plan.groups[first].size)} - {*plan.kept[first]})}
    assert plan.with_kept({first: moved}).information.keys() == {*others}
    assert plan.with_kept({first: plan.kept[first]}).information == plan.information


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


def test_a_folder_is_no_plan(tmp_path):
    assert "cannot be read (Is a directory)" in refused(lambda: mipp.load_plan(tmp_path))


def test_integers_of_numpy_make_a_plan_that_can_be_written():
    budget = mipp.Budget(widths={"0": np.int64(4)}, min_keep=np.int32(1), round_to=np.int64(2))
    plan = prune_images(budget=budget).plan.with_kept({"4": np.array([1, 2])})
    assert mipp.PruningPlan.from_dict(json.loads(plan.to_json())) == plan
    for wrong in ({"0": 4.6}, {"0": True}):
        assert "of whole numbers" in refused(lambda w=wrong: mipp.Budget(widths=w))
