"""Law 3: what a refit recovers exactly, never raises and never adds."""

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import (
    IMAGE,
    PRUNABLE,
    VECTOR,
    Case,
    Keep,
    Net,
    assert_same,
    inspected,
    named,
    outputs,
    pruned,
)
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


EXACT = mipp.Refit(ridge=1e-12, positions=10**9)


prunable = pytest.mark.parametrize("case", PRUNABLE, ids=str)


def halved(case: Case) -> dict[str, tuple[int, ...]]:
    return {name: tuple(range(0, g.size, 2)) for name, g in inspected(case)[1].groups.items()}


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
