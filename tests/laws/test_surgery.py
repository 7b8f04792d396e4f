"""Laws 1 and 2 for every case: cutting equals masking, and keeping everything is the identity."""

import copy

import numpy as np
import pytest
import torch
from cases import (
    CASES,
    PRUNABLE,
    Case,
    assert_same,
    call,
    inspected,
    named,
    one_in,
    outputs,
    plan_for,
    pruned,
    tensors,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


FEW = settings(max_examples=5, phases=[Phase.explicit, Phase.generate])  # tiny examples need no shrinking


every = pytest.mark.parametrize("case", CASES, ids=str)


prunable = pytest.mark.parametrize("case", PRUNABLE, ids=str)


def drawn(data, case: Case, smallest: int) -> dict[str, tuple[int, ...]]:
    """A random subset of the nodes of every group."""
    groups = inspected(case)[1].groups
    return {
        name: tuple(sorted(data.draw(st.sets(st.integers(0, g.size - 1), min_size=smallest), label=name)))
        for name, g in groups.items()
    }


def halved(case: Case) -> dict[str, tuple[int, ...]]:
    return {name: tuple(range(0, g.size, 2)) for name, g in inspected(case)[1].groups.items()}


@prunable
@FEW
@given(data=st.data())
def test_cutting_equals_masking(case, data):
    """Also where groups are emptied."""
    model, _ = inspected(case)
    plan = plan_for(case, drawn(data, case, data.draw(st.sampled_from([1, 1, 0]), label="smallest")))
    batch = case.batch(3, 5)
    assert_same(outputs(mipp.apply(plan, model), batch), outputs(mipp.mask(plan, model), batch))


@prunable
def test_cutting_equals_zeroing_what_modules_read(case):
    """The oracle: forward hooks zero the removed positions of every input of a dense model."""
    model, found = inspected(case)
    plan = plan_for(case, halved(case))
    if plan.reductions:
        pytest.skip("an op runs over the kept positions only, which hooks on modules cannot make it do")
    dense = copy.deepcopy(model)
    for name, group in found.groups.items():
        gone = np.setdiff1d(np.arange(group.size), plan.kept[name])
        for s in group.slices:
            if not s.reads:
                continue
            owner = dense.get_submodule(s.tensor.rpartition(".")[0])
            if not isinstance(owner, nn.Linear | nn.modules.conv._ConvNd):
                pytest.skip("its weights are read by functional calls, which have no hooks")
            positions = torch.from_numpy(s.positions[gone].ravel())
            owner.register_forward_pre_hook(_zeroing(owner, positions))
    batch = case.batch(3, 5)
    assert_same(outputs(mipp.apply(plan, model), batch), outputs(dense, batch))


def _zeroing(owner, positions):
    def hook(module, args):
        x = args[0].clone()
        if isinstance(owner, nn.Linear):
            x[..., positions] = 0
        else:
            x = x.unflatten(1, (owner.groups, -1))
            x[:, :, positions] = 0
            x = x.flatten(1, 2)
        return (x, *args[1:])

    return hook


@prunable
def test_outputs_do_not_depend_on_what_was_removed(case):
    """Changing the weights that only make removed nodes changes neither the cut nor the masked model."""
    model, found = inspected(case)
    plan = plan_for(case, halved(case))
    other = copy.deepcopy(model)
    tensors_of = dict(other.state_dict(keep_vars=True))
    for name, group in found.groups.items():
        gone = np.setdiff1d(np.arange(group.size), plan.kept[name])
        for s in group.slices:
            t = tensors_of[s.tensor]
            if not s.reads and t.is_floating_point():
                with torch.no_grad():
                    t.index_fill_(s.axis, torch.from_numpy(s.positions[gone].ravel()), 3.0)
    batch = case.batch(3, 5)
    assert_same(outputs(mipp.apply(plan, other), batch), outputs(mipp.apply(plan, model), batch))
    assert_same(outputs(mipp.mask(plan, other), batch), outputs(mipp.mask(plan, model), batch))


@prunable
def test_the_cut_model_is_smaller_in_every_group_and_its_attributes_agree(case):
    model, _ = inspected(case)
    small = mipp.apply(plan_for(case, halved(case)), model)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert type(small) is type(model)
    for module in small.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.BatchNorm2d):
            known = [t for t in (module.running_mean, module.weight) if t is not None]
            assert all(t.shape == (module.num_features,) for t in known)
        elif isinstance(module, nn.Embedding):
            assert module.weight.shape == (module.num_embeddings, module.embedding_dim)


@pytest.mark.parametrize("name", ["tied weights", "two parameters over one storage"])
def test_what_was_shared_stays_shared(name):
    case = named(name)
    model, _ = inspected(case)
    small = mipp.apply(plan_for(case, halved(case)), model)
    first, second = (small.embed, small.head) if name == "tied weights" else (small.b, small.c)
    assert first.weight.data_ptr() == second.weight.data_ptr()
    assert (first.weight is second.weight) == (name == "tied weights")


@every
def test_keeping_everything_is_the_identity_bit_for_bit(case):
    model, found = inspected(case)
    plan = plan_for(case, {name: range(g.size) for name, g in found.groups.items()})
    batch = case.batch(3, 5)
    for same in (mipp.apply(plan, model), mipp.mask(plan, model)):
        assert all(torch.equal(a, b) for a, b in zip(outputs(same, batch), outputs(model, batch), strict=True))


@pytest.mark.parametrize("case", one_in(4, PRUNABLE), ids=str)
def test_pruning_with_a_budget_of_everything_changes_no_bit(case):
    result = mipp.prune(case.model(), case.batches(), mipp.Budget(macs=1.0), mipp.methods.L1(), progress=False)
    dense = case.model().state_dict()
    assert result.model.state_dict().keys() == dense.keys()
    assert all(torch.equal(t, dense[name]) for name, t in result.model.state_dict().items())


@prunable
def test_a_plan_on_its_own_result_is_refused(case):
    model, _ = inspected(case)
    plan = plan_for(case, halved(case))
    small = mipp.apply(plan, model)
    for function in (mipp.apply, mipp.mask):
        with pytest.raises(mipp.PlanMismatchError):
            function(plan, small)


@pytest.mark.parametrize("case", one_in(4, PRUNABLE), ids=str)
def test_a_pruned_model_can_be_pruned_again(case):
    model, found = inspected(case)
    if all(g.size < 4 for g in found.groups.values()):
        pytest.skip("too narrow")
    small = mipp.apply(plan_for(case, {n: range(g.size - 1) for n, g in found.groups.items()}), model)
    again = mipp.inspect(small, case.batch(2))
    wide = {n: g.size - 1 for n, g in found.groups.items() if g.size > 2}  # a last head is pruned by its positions
    assert {n: g.size for n, g in again.groups.items() if found.groups[n].size > 2} == wide
    kept = {n: range(g.size - 1) for n, g in again.groups.items()}
    plan = mipp.PruningPlan.of(again.graph, small, kept)
    batch = case.batch(3, 5)
    assert_same(outputs(mipp.apply(plan, small), batch), outputs(mipp.mask(plan, small), batch))


@prunable
def test_a_pruned_model_trains(case):
    small = copy.deepcopy(pruned(case).model).train()
    before = copy.deepcopy(small.state_dict())
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    sum(t.square().sum() for t in tensors(call(small, case.batch(4)))).backward()
    optimizer.step()
    assert any(not torch.equal(before[n], p) for n, p in small.named_parameters())


def test_removing_dead_nodes_changes_nothing():
    """Dead: no weight reads them, or they are zero everywhere."""
    case = named("residual")
    model = case.model()
    with torch.no_grad():
        for name in ("a.weight", "bn1.weight", "bn1.bias"):
            model.get_parameter(name)[1] = 0
        model.b.weight[:, 3] = 0
    plan = mipp.PruningPlan.of(mipp.inspect(model, case.batch(2)).graph, model, {"a": (0, 2)})
    batch = case.batch(4, 3)
    assert_same(outputs(mipp.apply(plan, model), batch), outputs(model, batch))
