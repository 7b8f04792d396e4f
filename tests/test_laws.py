"""Laws 1 to 3 and 8 of the design, for every case: what surgery, masks, refits and methods may and may not do."""

import contextlib
import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    CASES,
    CORE,
    IMAGE,
    PRUNABLE,
    VECTOR,
    Case,
    Keep,
    Net,
    assert_same,
    call,
    gauss,
    inspected,
    named,
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
EXACT = mipp.Refit(ridge=1e-12, positions=10**9)
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


# --- law 1: surgery = masking -----------------------------------------------------------------------------------------


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


# --- law 2: keeping everything ----------------------------------------------------------------------------------------


@every
def test_keeping_everything_is_the_identity_bit_for_bit(case):
    model, found = inspected(case)
    plan = plan_for(case, {name: range(g.size) for name, g in found.groups.items()})
    batch = case.batch(3, 5)
    for same in (mipp.apply(plan, model), mipp.mask(plan, model)):
        assert all(torch.equal(a, b) for a, b in zip(outputs(same, batch), outputs(model, batch), strict=True))


@prunable
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


@prunable
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


# --- law 3: dead nodes, duplicates, refits ----------------------------------------------------------------------------


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


def duplicated(name: str) -> tuple[Case, nn.Module, dict[str, tuple[int, ...]]]:
    """A model in which the nodes that are not kept are copies of kept ones, or linear combinations of them."""
    case = named(name)
    model = case.model()
    with torch.no_grad():
        if name == "linear chain":
            for layer, scale in ((model[0], 2.0), (model[2], 1.0)):
                layer.weight[3] = scale * layer.weight[1]
                layer.bias[3] = scale * layer.bias[1]
            return case, model, {"0": (0, 1, 2, 4, 5), "2": (0, 1, 2, 4)}
        if name == "conv bn relu chain":
            for conv, norm, source in ((model[0], model[1], 1), (model[3], model[4], 0)):
                conv.weight[3] = conv.weight[source]
                norm.bias.fill_(1.0)
                for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    t[3] = t[source]
            return case, model, {"0": (0, 1, 2, 4), "3": (0, 1, 2)}
        if name == "conv flatten linear":
            model[0].weight[2], model[0].bias[2] = model[0].weight[0], model[0].bias[0]
            return case, model, {"0": (0, 1, 3)}
        if name == "gated linear unit":
            for row in (0, 5):
                model.up.weight[row + 4], model.up.bias[row + 4] = model.up.weight[row + 2], model.up.bias[row + 2]
            return case, model, {"up": (0, 1, 2, 3)}
        if name == "depthwise":
            for t in (model[0].weight, model[0].bias, model[2].weight, model[2].bias, *model[3].state_dict().values()):
                if t.ndim:
                    t[4] = t[2]
            model[3].bias.fill_(1.0)
            return case, model, {"0": (0, 1, 2, 3)}
        if name == "depthwise behind a refitted layer":
            model[0].weight[5], model[0].bias[5] = model[0].weight[1], model[0].bias[1]
            for t in (model[2].weight, model[2].bias, model[4].weight, model[4].bias):
                t[4] = t[2]
            return case, model, {"0": (0, 1, 2, 3, 4), "2": (0, 1, 2, 3)}
        if name == "residual":
            rows = (model.stem.weight, model.b.weight)
            norms = [t for n in (model.bn0, model.bn2) for t in n.state_dict().values() if t.ndim]
            for t in (*rows, *norms):
                t[4] = t[1]
            return case, model, {"stem": (0, 1, 2, 3)}
        if name == "reader used twice":
            for layer in (model.a, model.b):
                layer.weight[4], layer.bias[4] = layer.weight[0], layer.bias[0]
            return case, model, {"a": (0, 1, 2, 3)}
        if name == "concatenation":
            model.b.weight[2], model.b.bias[2] = model.b.weight[0], model.b.bias[0]
            for t in model.bn.state_dict().values():
                if t.ndim:
                    t[6] = t[4]
            return case, model, {"b": (0, 1)}
        if name == "functional calls":
            model.w1[5], model.b1[5] = 0.5 * model.w1[2], 0.5 * model.b1[2]
            model.w2[0] = 3 * model.w2[4]
            return case, model, {"w1": (0, 1, 2, 3, 4), "w2": (1, 2, 3, 4)}
        if name == "embedding":
            model.embed.weight[:, 5] = model.embed.weight[:, 0] - 2 * model.embed.weight[:, 1] + 0.5
            return case, model, {"embed": (0, 1, 2, 3, 4)}
        if name == "linear on the last axis of an image":
            model.a.weight[3], model.a.bias[3] = model.a.weight[0], model.a.bias[0]
            return case, model, {"a": (0, 1, 2)}
        if name == "few groups":
            for row in (0, 4):
                model[0].weight[row + 3], model[0].bias[row + 3] = model[0].weight[row + 1], model[0].bias[row + 1]
            return case, model, {"0": (0, 1, 2)}
        assert name == "conv1d"
        for t in (model[0].weight, model[0].bias, *model[1].state_dict().values()):
            if t.ndim:
                t[4] = t[2]
        return case, model, {"0": (0, 1, 2, 3)}


DUPLICATED = [
    "linear chain", "conv bn relu chain", "conv flatten linear", "gated linear unit", "depthwise",
    "depthwise behind a refitted layer", "residual",
    "reader used twice", "concatenation", "functional calls", "embedding", "linear on the last axis of an image",
    "few groups", "conv1d",
]  # fmt: skip


@pytest.mark.parametrize("name", DUPLICATED)
def test_duplicates_and_linear_combinations_are_recovered_as_the_ridge_vanishes(name):
    case, model, kept = duplicated(name)
    result = mipp.prune(model, case.batches(4, 20), mipp.Budget(), Keep(kept), compensate=EXACT, progress=False)
    assert {n: result.plan.kept[n] for n in kept} == kept
    batch = case.batches(1, 20)[0][0]  # of the calibration data: what is never active there cannot be fitted
    assert_same(outputs(result.model, batch), outputs(model, batch), rtol=1e-6)
    cut = mipp.apply(result.plan, model)
    assert (
        max(float((a - b).abs().max()) for a, b in zip(outputs(cut, batch), outputs(model, batch), strict=True)) > 1e-3
    )


def test_affine_functions_are_recovered_through_a_batch_norm():
    """Without padding a removed node that is affine in kept ones is absorbed; the offset goes to the batch norm."""

    def forward(m, x):
        return m.out(F.relu(m.bn(m.b(m.a(x)))))

    def build():
        return Net(
            forward,
            a=nn.Conv2d(3, 5, 1),
            b=nn.Conv2d(5, 4, 3, bias=False),
            bn=nn.BatchNorm2d(4),
            out=nn.Conv2d(4, 2, 1),
        )

    case = Case("affine", build, IMAGE)
    model = case.model()
    with torch.no_grad():
        model.a.weight[4] = model.a.weight[0] - model.a.weight[2]
        model.a.bias[4] = 0.7
    method = Keep({"a": (0, 1, 2, 3)})
    result = mipp.prune(model, case.batches(4, 20), mipp.Budget(), method, compensate=EXACT, progress=False)
    batch = case.batch(5, 77)
    assert_same(outputs(result.model, batch), outputs(model, batch), rtol=1e-6)
    assert result.model.b.bias is None


def _at(model: nn.Module, layer: str, batches) -> torch.Tensor:
    """Outputs of a layer for all batches, channels last."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    for batch, _ in batches:
        outputs(model, batch)
    handle.remove()
    dim = 1 if seen[0].ndim == 4 else -1
    return torch.cat([t.movedim(dim, -1).reshape(-1, t.shape[dim]) for t in seen])


@pytest.mark.parametrize("ridge", [1e-12, 1e-3, 10.0])
@pytest.mark.parametrize(
    ("name", "kept", "layers"),
    [
        ("linear chain", {"0": (0, 2, 5), "2": (1, 2, 4)}, {"2": "2", "4": "4"}),
        ("conv bn relu chain", {"0": (0, 3, 4), "3": (1, 2)}, {"3": "4", "6": "6"}),
        ("conv flatten linear", {"0": (0, 3), "3": (2, 3, 4)}, {"3": "3", "5": "5"}),
        ("mean over positions", {"conv": (1, 2)}, {"fc": "fc"}),
        ("embedding", {"embed": (0, 2, 3), "fc": (0, 4)}, {"fc": "fc", "out": "out"}),
        ("scale taken from the data", {"a": (1, 2)}, {"b": "b"}),
        ("reader used twice", {"a": (1, 3)}, {"head": "head"}),
        ("few groups", {"0": (1, 3)}, {"2": "2"}),
    ],
)
def test_the_refit_never_raises_the_calibration_residual_of_a_layer(name, kept, layers, ridge):
    """Per layer, with its inputs as they are in the final model; where a batch norm follows, behind it."""
    case = named(name)
    model = case.model()
    batches = case.batches(3, 16)
    options = mipp.Refit(ridge=ridge, positions=10**9)
    result = mipp.prune(model, batches, mipp.Budget(), Keep(kept), compensate=options, progress=False)
    plan, final = result.plan, result.model
    cut = mipp.apply(plan, model)
    for layer, behind in layers.items():
        unfitted = copy.deepcopy(final)
        for place in {layer, behind}:
            unfitted.get_submodule(place).load_state_dict(cut.get_submodule(place).state_dict())
        target = _at(model, behind, batches)
        rows = (
            list(plan.kept.get(layer, range(target.shape[1])))
            if target.shape[1] != _at(final, behind, batches).shape[1]
            else None
        )
        target = target if rows is None else target[:, rows]
        after = (_at(final, behind, batches) - target).square().sum()
        before = (_at(unfitted, behind, batches) - target).square().sum()
        assert after <= before * (1 + 1e-9)


def test_a_refit_through_a_shared_batch_norm_does_not_undo_an_earlier_refit():
    """The batch norm behind the refitted layer is used before it too: its bias is not free to take an offset."""
    case = named("shared batch norm")
    model = case.model()
    with torch.no_grad():  # node 4 of a is affine in node 0, for which b needs an offset
        model.a.weight[4] = 0
        model.a.bias[4] = 2.0
        model.bn.weight[4], model.bn.bias[4], model.bn.running_mean[4] = 1.0, 1.0, 0.0
    cut = mipp.prune(
        model, case.batches(), mipp.Budget(), Keep({"a": (0, 1, 2, 3)}), compensate=False, progress=False
    ).model
    result = mipp.prune(
        model, case.batches(), mipp.Budget(), Keep({"a": (0, 1, 2, 3)}), compensate=EXACT, progress=False
    )
    batches = case.batches()
    first = []
    for m in (model, cut, result.model):
        seen = []
        handle = m.bn.register_forward_hook(lambda *a, seen=seen: seen.append(a[2].detach()))
        outputs(m, batches[0][0])
        handle.remove()
        first.append(seen[0])
    torch.testing.assert_close(first[2], first[0][:, :4], rtol=1e-9, atol=1e-9)


@prunable
def test_the_refit_adds_no_parameters(case):
    result = pruned(case)
    cut = mipp.apply(result.plan, case.model())
    shape = {n: t.shape for n, t in cut.state_dict().items()}
    assert {n: t.shape for n, t in result.model.state_dict().items()} == shape


@prunable
def test_a_bias_is_added_only_where_the_model_reads_it(case):
    """`allow_bias` adds parameters that change the outputs, or none."""
    model = case.model()
    options = mipp.Refit(allow_bias=True)
    result = mipp.prune(model, case.batches(1), mipp.Budget(), Keep(halved(case)), compensate=options, progress=False)
    added = result.model.state_dict().keys() - model.state_dict().keys()
    for name in added:
        changed = copy.deepcopy(result.model)
        with torch.no_grad():
            changed.get_parameter(name).add_(1.0)
        pairs = zip(outputs(changed, case.batch(3)), outputs(result.model, case.batch(3)), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs), f"{name} is read by nothing"


def test_allow_bias_lowers_the_residual_where_there_was_no_bias():
    def forward(m, x):
        return m.b(F.relu(m.a(x)))

    case = Case("no bias", lambda: Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3, bias=False)), VECTOR)
    model, batches = case.model(), case.batches()
    errors = []
    for allow in (False, True):
        options = mipp.Refit(ridge=1e-12, allow_bias=allow)
        small = mipp.prune(model, batches, mipp.Budget(), Keep({"a": (0, 1)}), compensate=options, progress=False).model
        errors.append(sum(float((outputs(small, x)[0] - outputs(model, x)[0]).square().sum()) for x, _ in batches))
    assert small.b.bias is not None
    assert errors[1] < errors[0]


def test_a_collapsed_group_stays_silent_through_the_refit():
    """Law 7: an emptied group stays as a silent mask. Nothing may read the node that stands in for it."""
    case = named("residual")
    model = case.model()
    with torch.no_grad():
        model.bn1.bias.fill_(2.0)  # no node is dead
    result = mipp.prune(model, case.batches(), mipp.Budget(), Keep({"a": ()}), compensate=True, progress=False)
    assert result.plan.collapsed == ("a",)
    assert result.report.collapsed == ("a",)
    batch = case.batch(3, 9)
    before = outputs(result.model, batch)
    with torch.no_grad():
        result.model.a.weight.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(outputs(result.model, batch), before, strict=True))


# --- law 8: the model is as before ------------------------------------------------------------------------------------


def _state(model: nn.Module):
    """Everything that pruning must leave alone."""
    tensors_of = {n: (t, t.detach().clone(), t._version) for n, t in model.state_dict(keep_vars=True).items()}
    modules = list(model.named_modules())
    hooks = {
        n: [dict(getattr(m, a)) for a in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        for n, m in modules
    }
    training = {n: m.training for n, m in modules}
    fields = {n: sorted(vars(m)) for n, m in modules}
    grads = {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()}
    return tensors_of, hooks, training, fields, grads


def _assert_untouched(model: nn.Module, before) -> None:
    tensors_of, hooks, training, fields, grads = _state(model)
    assert tensors_of.keys() == before[0].keys()
    for name, (tensor, value, version) in before[0].items():
        assert tensors_of[name][0] is tensor, name
        assert torch.equal(tensor, value), name
        assert tensor._version == version, name
    assert (hooks, training, fields, grads) == before[1:]


def _random_state():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def _assert_same_random_state(before) -> None:
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


@prunable
@pytest.mark.parametrize("method", CORE)
def test_a_method_leaves_the_model_and_the_random_state_as_they_were(method, case):
    model = case.model().train()
    for module in list(model.modules())[1::2]:
        module.eval()  # a mixture, as when batch norms are frozen
    model.register_forward_hook(lambda *args: None)
    before, chance = _state(model), _random_state()
    compensate = method == "mipp"  # the same for all methods
    result = mipp.prune(
        model,
        case.batches(2, 6),
        mipp.Budget(nodes=0.7),
        mipp.methods.all()[method](),
        compensate=compensate,
        progress=False,
    )
    _assert_untouched(model, before)
    _assert_same_random_state(chance)
    assert {n: m.training for n, m in result.model.named_modules()} == before[2]
    assert len(result.model._forward_hooks) == 1
    own = {t.data_ptr() for t in model.state_dict().values()}
    assert not own & {t.data_ptr() for t in result.model.state_dict().values() if t.numel()}


@every
def test_inspecting_leaves_the_model_and_the_random_state_as_they_were(case):
    model = case.model().train()
    before, chance = _state(model), _random_state()
    mipp.inspect(model, case.batch(2))
    _assert_untouched(model, before)
    _assert_same_random_state(chance)


@prunable
def test_apply_and_mask_leave_the_model_as_it_was(case):
    model = case.model()
    plan = plan_for(case, halved(case))
    before, chance = _state(model), _random_state()
    mipp.apply(plan, model)
    mipp.mask(plan, model)
    _assert_untouched(model, before)
    _assert_same_random_state(chance)


class Bomb(nn.Module):
    """Passes its input on, until the call it was set to fail in; copies share the count."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __deepcopy__(self, memo):
        return Bomb(self.calls)

    def forward(self, x):
        self.calls.append(1)
        if len(self.calls) == self.calls.limit:
            raise RuntimeError("boom")
        return x


class Calls(list):
    limit = 0


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8])
def test_an_exception_inside_forward_leaves_everything_as_it_was(method, limit):
    """Whenever the forward pass fails, prune raises its own error or finishes; the model is untouched."""
    calls = Calls()
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), Bomb(calls), nn.Dropout(), nn.Linear(6, 2))
    model = model.double().train()
    before, chance = _state(model), _random_state()
    calls.limit = limit
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with contextlib.suppress(mipp.MippError):
        mipp.prune(model, VECTOR_BATCHES, mipp.Budget(nodes=0.5), mipp.methods.all()[method](), progress=False)
    assert limit > 3 or len(calls) >= limit  # it did fail
    _assert_untouched(model, before)
    _assert_same_random_state(chance)
    assert torch.is_inference_mode_enabled() is False
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled() is fastpath


VECTOR_BATCHES = [gauss(4)(6, torch.Generator().manual_seed(i)) for i in range(3)]


def _renormalised(m, x):
    m.a.weight.data = torch.renorm(m.a.weight.data, 2, 0, 0.5)
    return m.c(F.relu(m.b(F.relu(m.a(x)))))


def _clamped(m, x):
    with torch.no_grad():
        m.a.weight.clamp_(-0.1, 0.1)
    return m.c(F.relu(m.b(F.relu(m.a(x)))))


@pytest.mark.parametrize("forward", [_renormalised, _clamped])
def test_weights_that_forward_itself_changes_are_as_before(forward):
    """Max-norm constraints (EEGNet) renormalise a parameter inside forward; pruning must not let that through."""
    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 2)).double()
    before = copy.deepcopy(model.state_dict())
    pointer = model.a.weight.data_ptr()
    mipp.inspect(model, VECTOR_BATCHES[0])
    mipp.prune(model, VECTOR_BATCHES, mipp.Budget(nodes=0.5), progress=False)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.a.weight.data_ptr() == pointer


def test_embeddings_with_a_largest_norm_are_as_before():
    case = named("embedding")
    model = case.model()
    model.embed.max_norm = 0.5
    before = copy.deepcopy(model.state_dict())
    mipp.inspect(model, case.batch(2))
    mipp.prune(model, case.batches(), mipp.Budget(nodes=0.7), progress=False)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_buffers_that_forward_changes_and_attributes_it_sets_are_as_before():
    def forward(m, x):
        m.count += 1
        m.last = x
        return m.b(F.relu(m.a(x)))

    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2)).double()
    model.register_buffer("count", torch.zeros(()))
    before = _state(model)
    mipp.prune(model, VECTOR_BATCHES, mipp.Budget(nodes=0.5), progress=False)
    _assert_untouched(model, before)


def test_measuring_the_latency_leaves_the_training_modes_as_they_were():
    from mipp.graph.program import Call
    from mipp.plan.cost import latency_ms

    model = named("dropout").model().train()
    model[1].eval()
    before, chance = _state(model), _random_state()
    assert latency_ms(model, Call((VECTOR_BATCHES[0],)), seconds=0.01) > 0
    _assert_untouched(model, before)
    _assert_same_random_state(chance)


def test_every_method_is_a_frozen_dataclass_that_constructs_without_arguments():
    for name, make in mipp.methods.all().items():
        method = make()
        assert dataclasses.is_dataclass(method), name
        with pytest.raises(dataclasses.FrozenInstanceError):
            method.anything = None
        assert repr(method) == repr(make()), name


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("name", ["residual", "concatenation", "gated linear unit", "few groups"])
def test_the_same_seed_gives_the_same_plan_and_weights(method, name):
    """Whatever the global random state."""
    case = named(name)
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        results.append(
            mipp.prune(
                case.model(),
                case.batches(),
                mipp.Budget(macs=0.6),
                mipp.methods.all()[method](),
                seed=3,
                progress=False,
            )
        )
    assert results[0].plan == results[1].plan
    pairs = zip(results[0].model.state_dict().values(), results[1].model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
