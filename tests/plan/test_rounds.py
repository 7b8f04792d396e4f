"""Plans of several rounds are one plan for the first model: cutting twice is cutting once."""

import random

import pytest
import torch
from cases import PRUNABLE, assert_same, inspected, named, outputs

import mipp
from mipp.errors import PlanMismatchError, UnsupportedModelError
from mipp.plan.plan import PruningPlan

pytestmark = pytest.mark.usefixtures("quick")


def random_plan(model, case, rng, freeze=()):
    """A plan that keeps at least half of each group."""
    graph = mipp.inspect(model, case.batch(2), freeze).graph
    kept = {
        name: sorted(rng.sample(range(group.size), rng.randint((group.size + 1) // 2, group.size)))
        for name, group in graph.groups.items()
    }
    return PruningPlan.of(graph, model, kept)


@pytest.mark.parametrize("case", PRUNABLE, ids=str)
def test_two_rounds_are_one_plan(case):
    """Also where a group is left whole in the first round and cut in the second."""
    model, rng = case.model(), random.Random(case.name)
    _, whole = inspected(case)
    there = [name for name in sorted(whole.groups) if dict(model.named_modules()).get(name) is not None]
    first = random_plan(model, case, rng, rng.sample(there, min(1, len(there))))
    small = mipp.apply(first, model)
    try:
        second = random_plan(small, case, rng)
    except UnsupportedModelError:
        pytest.skip("what is left does not run on this input")
    both, batch = first.then(second), case.batch(3, 5)
    smaller, once = mipp.apply(second, small), mipp.apply(both, model)
    assert {n: tuple(t.shape) for n, t in once.state_dict().items()} == {
        n: tuple(t.shape) for n, t in smaller.state_dict().items()
    }
    for ours, theirs in zip(outputs(once, batch), outputs(smaller, batch), strict=True):
        assert torch.equal(ours, theirs)
    assert_same(outputs(once, batch), outputs(mipp.mask(both, model), batch))
    assert PruningPlan.from_dict(both.to_dict()) == both


def test_a_part_of_a_node_cannot_go_in_a_later_round_of_one_plan():
    """Of one head that is left the channels are nodes; in the first model the head is one."""
    case = named("transformer layer")
    model, _ = inspected(case)
    graph = mipp.inspect(model, case.batch(2)).graph
    first = PruningPlan.of(graph, model, {"1.self_attn": [0]})
    small = mipp.apply(first, model)
    second = PruningPlan.of(mipp.inspect(small, case.batch(2)).graph, small, {"1.self_attn": [0]})
    with pytest.raises(PlanMismatchError, match="a part of a node"):
        first.then(second)


def test_a_plan_for_another_model_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    plan = mipp.prune(model, [torch.randn(16, 4)], mipp.Budget(nodes=0.5), progress=False).plan
    with pytest.raises(PlanMismatchError, match="Expected the plan of the next round"):
        plan.then(plan)
