"""Law 8 for every method on every model case: it meets the budget, says what it lacks, and leaves all as it was."""

import copy
import dataclasses
from functools import cache

import pytest
import torch
from cases import (
    CORE,
    PRUNABLE,
    Case,
    inspected,
    named,
    tensors,
)
from torch import nn

import mipp
from mipp.data.calibration import read
from mipp.methods import Task, needs_of
from mipp.plan.cost import cost_of

METHODS = mipp.methods.all()


FEWER = {"rounds": 2, "samples": 1, "per_round": 0.5}  # for speed


BUDGET = mipp.Budget(nodes=0.7)


def made(name: str):
    """A method with fewer rounds and samples."""
    method = METHODS[name]()
    fields = {f.name for f in dataclasses.fields(method)}
    return dataclasses.replace(method, **{n: v for n, v in FEWER.items() if n in fields})


def loss(output, labels):
    """Depends on every output and on the labels."""
    parts = [(t.flatten(1).mean(1) - labels).square().mean() for t in tensors(output) if t.requires_grad]
    return torch.stack(parts).sum()


def trainer(case: Case):
    """A training of five steps per whole, on one batch."""

    def train(model, *, fraction=1.0, after_step=None):
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(max(1, round(5 * fraction))):
            optimiser.zero_grad()
            batch = case.batch(4, 7)
            output = (
                model(**batch) if isinstance(batch, dict) else model(*(batch if isinstance(batch, tuple) else [batch]))
            )
            loss(output, torch.zeros(4)).backward()
            optimiser.step()
            after_step()

    return train


@cache
def task(case: Case) -> Task:
    model, found = inspected(case)
    model = copy.deepcopy(model)
    batches = read(mipp.Calibration(case.batches(2, 6)), None)
    return Task(model, found.graph, cost_of(found.graph), batches, loss, trainer(case))


def state(model: nn.Module):
    tensors_of = {n: (t, t.detach().clone(), t._version) for n, t in model.state_dict(keep_vars=True).items()}
    modules = {n: (m.training, dict(m._forward_hooks), dict(m._backward_hooks)) for n, m in model.named_modules()}
    grads = {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()}
    return tensors_of, modules, grads, torch.get_rng_state()


def assert_untouched(model: nn.Module, before) -> None:
    after = state(model)
    for name, (tensor, value, version) in before[0].items():
        assert after[0][name][0] is tensor
        assert torch.equal(tensor, value), name
        assert tensor._version == version, name
    assert after[1:3] == before[1:3]
    assert torch.equal(after[3], before[3])
    assert not any(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)  # they were zero


@pytest.mark.parametrize("number", range(len(PRUNABLE)), ids=lambda i: PRUNABLE[i].name)
def test_methods_meet_the_budget_and_leave_the_model_alone(number):
    """A third of the methods on each case, another third on the next."""
    check(PRUNABLE[number], list(METHODS)[number % 3 :: 3])


@pytest.mark.slow
@pytest.mark.parametrize("case", PRUNABLE, ids=str)
def test_every_method_meets_the_budget_and_leaves_every_model_alone(case):
    check(case, METHODS)


def check(case: Case, methods) -> None:
    given = task(case)
    for number, parameter in enumerate(given.model.parameters()):
        parameter.grad = torch.zeros_like(parameter) if number % 2 else None
    before = state(given.model)
    refused = set()
    for name in methods:
        try:
            found = made(name).plan(given, BUDGET)
        except mipp.UnsupportedModelError:
            refused.add(name)
            continue
        finally:
            assert_untouched(given.model, before)
        plan, weights = found if isinstance(found, tuple) else (found, given.model.state_dict())
        kept = sum(len(nodes) for nodes in plan.kept.values())
        assert kept <= 0.7 * given.graph.num_nodes or all(len(nodes) == 1 for nodes in plan.kept.values()), name
        assert all(plan.kept.values()), name
        assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in given.model.state_dict().items()}
        mipp.apply(plan, given.model)
    norms = {n for n, m in given.model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine}
    scaled = any(s.tensor.removesuffix(".weight") in norms for g in given.graph.groups.values() for s in g.slices)
    assert refused == (set() if scaled else {"bnscale"}) & set(methods)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_lacks_is_named(method):
    """Without loss, labels and training a method runs or names the first of these that it needs."""
    full = task(named("conv bn relu chain"))
    needs = needs_of(made(method))
    bare = Task(full.model, full.graph, full.cost, [copy.copy(b) for b in full.batches])
    unlabelled = Task(
        full.model, full.graph, full.cost, read(mipp.Calibration(named("conv bn relu chain").batch(6)), None), loss
    )
    missing = {"loss_fn": bare, "train": bare} if needs.training else {"loss_fn": bare, "labels": unlabelled}
    for argument, given in missing.items():
        needed = needs.labels if argument in ("loss_fn", "labels") else needs.training
        if needed:
            with pytest.raises(mipp.MissingRequirementError, match=argument):
                made(method).plan(given, BUDGET)
        elif not needs.training:
            made(method).plan(given, BUDGET)


class Bomb(nn.Module):
    """Passes its input on, until the call it was set to fail in; copies share the count."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = [0]

    def __deepcopy__(self, memo):
        other = Bomb()
        other.fuse = self.fuse
        return other

    def forward(self, x):
        self.fuse[0] -= 1
        if self.fuse[0] == 0:
            raise RuntimeError("boom")
        return x


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fuse", [1, 3])
def test_a_failing_forward_pass_leaves_everything_as_it_was(method, fuse):
    case = named("conv bn relu chain")
    bomb = Bomb()
    model = nn.Sequential(bomb, nn.Dropout(), case.model()).train()
    with torch.random.fork_rng():
        graph = mipp.inspect(model, case.batch(2)).graph
    given = Task(model, graph, cost_of(graph), task(case).batches, loss, trainer(case))
    before = state(model)
    bomb.fuse[0] = fuse
    failed = False
    try:
        made(method).plan(given, BUDGET)
    except mipp.MippError:
        failed = True
    assert_untouched(model, before)
    assert torch.is_grad_enabled()
    assert failed or fuse > 1 or not needs_of(made(method)).data


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_result_whatever_the_global_random_state(method):
    found = []
    for chance in (1, 2):
        torch.manual_seed(chance)
        plan = made(method).plan(task(named("residual")), mipp.Budget(macs=0.6))
        found.append(plan if isinstance(plan, tuple) else (plan, {}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(tensor, found[1][1][key]) for key, tensor in found[0][1].items())


pytestmark = pytest.mark.usefixtures("quick")


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
