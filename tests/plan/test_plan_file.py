"""A damaged plan is refused before anything that it announces is made."""

import json
import math

import pytest
from cases import inspected, named, plan_for

import mipp


def data():
    return json.loads(plan_for(named("residual"), {}).to_json())


def set_in(path, value):
    def damage(plan):
        *parents, last = path
        for key in parents:
            plan = plan[key]
        plan[last] = value

    return damage


SLICE = ("groups", "stem", "slices", 0)
DAMAGES = {
    "nodes for 16 GB": lambda plan: (
        plan["groups"]["stem"].update(size=2**31),
        [s.__setitem__(3, "regular") or s.__setitem__(4, [0, 1, 1, 1]) for s in plan["groups"]["stem"]["slices"]],
    ),
    "tensors for 16 GB": lambda plan: (
        plan["tensors"].update({s[0]: [2**31] * 4 for s in plan["groups"]["stem"]["slices"]}),
        plan["groups"]["stem"].update(size=2**31),
    ),
    "positions for 16 GB": set_in((*SLICE, 4), [0, 0, 2**31, 0]),
    "no nodes": set_in(("groups", "stem", "size"), 0),
    "a number of more than 64 bits": set_in((*SLICE, 4), [2**63, 1, 1, 1]),
    "a position that is no number": set_in((*SLICE, 4), [math.nan, 1, 1, 1]),
    "positions of another form": set_in((*SLICE, 4), [[[0]], [1, 2]]),
    "three numbers": set_in((*SLICE, 4), [0, 1, 1]),
    "another kind": set_in((*SLICE, 3), "elsewhere"),
    "a slice without a tensor": set_in(SLICE, []),
    "an attribute of no group": set_in(("attributes",), [["a", "groups", 0, {"nobody": 1}]]),
    "an attribute too large": set_in(("attributes",), [["a", "groups", 2**64, {}]]),
    "a budget for eyes": set_in(("budget",), {"macs": 10**4000}),
    "nodes in words": set_in(("kept", "stem"), ["one", "two"]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_in_one_form(damage):
    plan = data()
    damage(plan)
    with pytest.raises(mipp.MippError) as refusal:
        mipp.PruningPlan.from_dict(plan)
    assert len(str(refusal.value)) < 800


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"format": ' + "1" * 5000 + "}", '{"format": NaN}', "\ufeff{}", '"\\ud800"', b"\xff\xfe"],
)
def test_files_that_hold_no_plan_are_refused(content, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(mipp.PlanMismatchError) as refusal:
        mipp.load_plan(path)
    assert len(str(refusal.value)) < 800


@pytest.mark.parametrize("name", ["x" * 300, "", "a\0b", 3, None])
def test_what_is_no_path_is_refused(name):
    with pytest.raises(mipp.MippError, match=r"no path|cannot be used as a path"):
        mipp.load_plan(name)


@pytest.mark.parametrize(
    "attribute", [["a", "forward"], ["nowhere", "out_channels"], ["a", "weight"], ["a", "stride.7"]]
)
def test_only_sizes_that_the_model_has_are_set(attribute):
    plan = data()
    plan["attributes"] = [[*attribute, 0, {"stem": 1}]]
    plan["kept"]["stem"] = plan["kept"]["stem"][:-1]
    with pytest.raises(mipp.PlanMismatchError, match="but here it is"):
        mipp.apply(mipp.PruningPlan.from_dict(plan), inspected(named("residual"))[0])
