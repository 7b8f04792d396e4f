"""The contract of `prune`, `inspect` and `Result`: forms of calibration data, options, reports, errors."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from cases import CORE, Keep, Net, assert_same, named, outputs
from networks import HALF, linear_chain, prune_chain, state_of, vectors
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", ["linear chain", "residual", "few groups"])
def test_very_few_samples_are_enough_to_run(method, samples, name):
    case = named(name)
    result = prune_chain(
        case.model(), [case.batch(samples)], mipp.Budget(macs=0.5), method=mipp.methods.all()[method]()
    )
    assert all(torch.isfinite(t).all() for t in outputs(result.model, case.batch(3)))


@pytest.mark.parametrize("method", CORE)
def test_constant_and_dead_activations_are_no_obstacle(method):
    model = linear_chain()
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].bias[:2] = -1.0
        model[2].weight.zero_()
    result = prune_chain(model, method=mipp.methods.all()[method]())
    assert torch.isfinite(outputs(result.model, vectors())[0]).all()


def test_a_model_that_takes_another_path_on_other_data_is_refused_or_right():
    """A branch on values. Statistics of the wrong path must not be used silently."""
    case = named("branch on values")
    data = [case.batch(6, 0), -case.batch(6, 1)]
    for method in map(mipp.methods.all().get, CORE):
        try:
            result = prune_chain(case.model(), data, method=method(), compensate=mipp.Refit(ridge=1e-9))
        except mipp.UnsupportedModelError:
            continue
        cut = mipp.apply(result.plan, case.model())
        worse = [
            sum(float((outputs(m, x)[0] - outputs(case.model(), x)[0]).square().sum()) for x in data)
            for m in (result.model, cut)
        ]
        assert worse[0] <= worse[1] * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_class_dtype_training_mode_and_gradients_are_those_of_the_model(dtype, training):
    case = named("residual")
    model = case.model().to(dtype).train(training)
    model.bn1.train(not training)
    model.a.weight.requires_grad_(False)
    result = prune_chain(model, [case.batch(8).to(dtype)])
    assert type(result.model) is type(model)
    assert {t.dtype for t in result.model.state_dict().values() if t.is_floating_point()} == {dtype}
    assert {n: m.training for n, m in result.model.named_modules()} == {n: m.training for n, m in model.named_modules()}
    wanted = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in result.model.named_parameters()} == wanted
    assert all(p.is_leaf and not p.is_inference() for p in result.model.parameters())


def test_the_plan_replays_on_the_dense_model():
    model = linear_chain()
    result = prune_chain(model, compensate=False)
    again = mipp.apply(result.plan, model)
    pairs = zip(again.state_dict().values(), state_of(result).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not result.resumed


def test_compensation_is_on_by_default_and_lowers_the_error():
    case = named("residual")
    batches = case.batches(4, 20)
    model = case.model()
    plain, fitted = (prune_chain(model, batches, method=mipp.methods.L1(), **o) for o in ({"compensate": False}, {}))
    assert plain.plan == fitted.plan
    errors = [
        sum(float((outputs(r.model, x)[0] - outputs(model, x)[0]).square().sum()) for x, _ in batches)
        for r in (plain, fitted)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_mipp_keeps_what_carries_information():
    """Nodes that copy others, do nothing, or are read by nothing go first."""
    model = linear_chain()
    with torch.no_grad():
        model[0].weight[4], model[0].bias[4] = model[0].weight[1], model[0].bias[1]
        model[0].weight[2], model[0].bias[2] = 0, -1.0
        model[2].weight[:, 5] = 0
    result = prune_chain(model, [vectors(200)], mipp.Budget(widths={"0": 3, "2": 5}))
    kept = set(result.plan.kept["0"])
    assert not kept & {2, 5}
    assert len(kept & {1, 4}) == 1
    assert_same(outputs(result.model, vectors()), outputs(model, vectors()), rtol=0.01)


def test_mipp_can_let_the_test_decide():
    result = prune_chain(budget=None, method=mipp.methods.MIPP(confidence=0.95))
    assert all(result.plan.kept.values())


def test_the_report_is_complete_and_json():
    case = named("residual")
    result = prune_chain(
        case.model(),
        case.batches(),
        mipp.Budget(macs=0.6),
        exclude=["stem"],
        evaluate=lambda m: {"n": len(list(m.parameters()))},
    )
    data = json.loads(json.dumps(result.report.to_dict()))
    for side in ("before", "after"):
        assert {"macs", "params", "latency_ms"} <= data[side].keys()
        assert data[side]["metrics"] == {"n": float(len(list(case.model().parameters())))}
    assert data["after"]["macs"] <= 0.6 * data["before"]["macs"]
    assert {g["name"]: g["kept"] for g in data["groups"]} == {n: len(k) for n, k in result.plan.kept.items()}
    assert all(0 <= g["nats"] <= g["total_nats"] for g in data["groups"])
    assert any(f["name"] == "stem" and "excluded" in f["reason"] for f in data["frozen"])
    assert "Net" in str(result.report)
    assert data["budget"] == {"macs": 0.6}
    assert "MIPP(" in data["method"]


def test_evaluate_is_called_before_and_after():
    seen = []

    def evaluate(model):
        seen.append(sum(p.numel() for p in model.parameters()))
        return 0.5

    result = prune_chain(evaluate=evaluate)
    assert seen == [result.report.before.params, result.report.after.params]
    assert result.report.after.metrics == {"score": 0.5}


def test_evaluate_cannot_change_the_models():
    """It gets copies: weights that it trains, and hooks and attributes that it leaves there, are lost."""
    expected, model = prune_chain(), linear_chain()
    before = copy.deepcopy(model.state_dict())

    @torch.no_grad()
    def evaluate(m):
        for parameter in m.parameters():
            parameter.mul_(2)
            parameter.data.add_(1)
        m.register_forward_hook(lambda *_: 1 / 0)
        m.left = 1
        return 0.0

    result = prune_chain(model, evaluate=evaluate)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not hasattr(model, "left")
    assert not hasattr(result.model, "left")
    assert result.plan == expected.plan
    pairs = zip(result.model.state_dict().values(), expected.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not result.model._forward_hooks


def test_what_a_notebook_shows_of_a_result_is_its_table():
    result = prune_chain()
    assert repr(result) == repr(result.report) == str(result.report)
    assert repr(mipp.inspect(linear_chain(), vectors())) == str(mipp.inspect(linear_chain(), vectors()))
    nodes = sum(g.size for g in result.plan.groups.values())
    assert f"{sum(result.plan.widths.values())} of {nodes} nodes kept, method=MIPP(" in repr(result.plan)


def test_the_generator_of_python_is_left_alone():
    code = "import random; s = random.getstate(); import mipp; mipp.prune; print(s == random.getstate())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_modules_of_the_package_are_found_without_an_import_of_their_own():
    names = ("estimators", "export", "grid", "methods", "report", "zoo")
    modules = [getattr(mipp, name) for name in names]
    assert [m.__name__ for m in modules] == [f"mipp.{name}" for name in names]


def test_the_seed_decides_what_is_random():
    plans = [prune_chain(budget=mipp.Budget(nodes=6), method=mipp.methods.Random(), seed=s).plan.kept for s in range(6)]
    assert len({str(p) for p in plans}) > 1


def test_a_method_gets_what_prune_was_given():
    seen = []

    class Look(Keep):
        def plan(self, task, budget):
            seen.append((task, budget))
            return super().plan(task, budget)

    def loss_fn(output, labels):
        return output.sum()

    def train(model, *, fraction=1.0, after_step=None):
        return None

    x, y = vectors(), torch.arange(20)
    model = linear_chain()
    prune_chain(model, [(x, y)], HALF, Look({}), loss_fn=loss_fn, train=train, seed=5)
    (task, budget), *_ = seen
    assert (task.loss_fn, task.train, task.seed, budget) == (loss_fn, train, 5, HALF)
    assert torch.equal(task.batches[0].labels, y)


def test_a_pruned_model_exports():
    case = named("residual")
    small = prune_chain(case.model(), case.batches()).model
    x = case.batch(3)
    exported = torch.export.export(small, (x,)).module()
    assert_same(outputs(exported, x), outputs(small, x))


@pytest.mark.parametrize("method", CORE)
def test_without_a_budget_a_method_says_what_to_pass(method):
    for budget in (None, mipp.Budget(), mipp.Budget(min_keep=2)):
        with pytest.raises(mipp.MissingRequirementError, match="budget"):
            prune_chain(budget=budget, method=mipp.methods.all()[method]())


def test_a_budget_that_cannot_be_met_is_refused():
    with pytest.raises(mipp.InfeasibleBudgetError, match="at least"):
        prune_chain(budget=mipp.Budget(nodes=1))
    with pytest.raises(mipp.InfeasibleBudgetError):
        prune_chain(budget=mipp.Budget(macs=1))


def test_a_model_with_nothing_to_prune_is_refused_with_the_reasons():
    with pytest.raises(mipp.UnsupportedModelError, match="output of the model"):
        prune_chain(nn.Linear(4, 3).double())
    case = named("index_select over channels")
    with pytest.raises(mipp.UnsupportedModelError, match="index_select"):
        prune_chain(case.model(), case.batches())


def test_a_forward_pass_that_fails_is_told_with_its_cause():
    with pytest.raises(mipp.UnsupportedModelError, match=r"RuntimeError.*shape \(\d+, 3\)") as caught:
        prune_chain(data=[torch.zeros(20, 3).double()])
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(mipp.UnsupportedModelError):
        mipp.inspect(linear_chain(), torch.zeros(2, 3).double())


def test_every_error_is_a_mipp_error():
    names = [
        "CalibrationError",
        "InfeasibleBudgetError",
        "MissingRequirementError",
        "PlanMismatchError",
        "UnsupportedModelError",
    ]
    assert all(issubclass(getattr(mipp, name), mipp.MippError) for name in names)


def test_a_keyboard_interrupt_is_not_swallowed():
    def forward(m, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mipp.inspect(Net(forward, a=nn.Linear(4, 4)), torch.zeros(2, 4))
