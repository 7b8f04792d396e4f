"""Law 8: model, random state, modes and hooks are as before, also after an exception inside forward."""

import contextlib
import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    CASES,
    CORE,
    PRUNABLE,
    Case,
    Net,
    gauss,
    inspected,
    named,
    plan_for,
)
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")

not_refitted = pytest.mark.filterwarnings("ignore:Nothing was refitted")  # ops in place cannot be replayed


every = pytest.mark.parametrize("case", CASES, ids=str)


prunable = pytest.mark.parametrize("case", PRUNABLE, ids=str)


def halved(case: Case) -> dict[str, tuple[int, ...]]:
    return {name: tuple(range(0, g.size, 2)) for name, g in inspected(case)[1].groups.items()}


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


@pytest.mark.parametrize(
    ("method", "case"),
    [
        pytest.param(method, case, id=f"{method}-{case}", marks=[pytest.mark.slow] if (i + k) % len(CORE) else [])
        for i, case in enumerate(PRUNABLE)
        for k, method in enumerate(CORE)
    ],
)
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


@not_refitted
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


@not_refitted
def test_embeddings_with_a_largest_norm_are_as_before():
    case = named("embedding")
    model = case.model()
    model.embed.max_norm = 0.5
    before = copy.deepcopy(model.state_dict())
    mipp.inspect(model, case.batch(2))
    mipp.prune(model, case.batches(), mipp.Budget(nodes=0.7), progress=False)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@not_refitted
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
    from mipp.graph.call import Call
    from mipp.plan.latency import latency_ms

    model = named("dropout").model().train()
    model[1].eval()
    before, chance = _state(model), _random_state()
    assert latency_ms(model, Call((VECTOR_BATCHES[0],)), seconds=0.01) > 0
    _assert_untouched(model, before)
    _assert_same_random_state(chance)
