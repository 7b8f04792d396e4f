"""Legal code that is easy to get wrong: whatever it is, it is cut as it is masked or frozen, and nothing crashes."""

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from cases import Net, assert_same, outputs
from torch import nn

import mipp
from mipp.plan.plan import PruningPlan
from mipp.surgery.proof import distance

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@dataclasses.dataclass(slots=True)
class Pair:
    x: torch.Tensor
    name: str


def layers(**more) -> dict[str, nn.Module]:
    return {"a": nn.Linear(6, 8), "b": nn.Linear(8, 3), "c": nn.Linear(6, 8), "e": nn.Embedding(2, 3), **more}


class Instance(nn.Conv2d):
    def forward(self, x):
        return F.instance_norm(super().forward(x))


ODD = {
    "fixed slice in the middle": lambda m, h: m.b(torch.cat([h[:, :5].relu(), h[:, 5:].tanh()], 1)),
    "slice from the end": lambda m, h: m.b(F.pad(h[:, :-3], (0, 3))),
    "narrow of everything": lambda m, h: m.b(h.narrow(1, 0, 8)),
    "one hot": lambda m, h: m.b(F.one_hot((h > 0).long(), 2).to(h.dtype).flatten(1)[:, :8]) + m.b(h),
    "embedding of signs": lambda m, h: m.b(h) + m.e((h > 0).long()).mean(1),
    "a weight that is computed": lambda m, h: F.linear(h, m.b.weight.exp()),
    "a centred weight": lambda m, h: F.linear(h, m.b.weight - m.b.weight.mean(1, keepdim=True)),
    "log of softmax": lambda m, h: m.b(h.softmax(1).log()),
    "in place on a slice": lambda m, h: m.b(_scaled(h)),
    "gather": lambda m, h: m.b(h) + h.gather(1, torch.zeros(len(h), 3, dtype=torch.long)),
    "mean of some": lambda m, h: m.b(h * h[:, :5].mean(1, keepdim=True)),
    "normalised": lambda m, h: m.b(F.normalize(h, dim=1)),
    "masked scatter": lambda m, h: m.b(h.masked_scatter(h > 0, h.flatten())),
    "empty slice": lambda m, h: m.b(torch.cat([h[:, :0], h], 1)),
    "no dimensions": lambda m, h: m.b(h) + h.mean().sum(0).sort().values,
    "a vector as weight": lambda m, h: m.b(h) + F.linear(h, m.b.weight[0])[:, None],
    "statistics of the batch": lambda m, h: m.b(F.batch_norm(h.view(1, 5, 8), None, None, training=True)[0]),
    "minus infinity": lambda m, h: torch.cat([m.b(h), torch.full((5, 1), -torch.inf, dtype=h.dtype)], 1),
    "complex output": lambda m, h: torch.complex(m.b(h), m.b(h.relu())),
    "classes": lambda m, h: m.b(torch.cat([h[:, :5].relu(), h[:, 5:].tanh()], 1)).argmax(1),
    "hundreds of layers": lambda m, h: _deep(m, h),
}


def _scaled(h):
    h = h.clone()
    h[:, :4].mul_(2)
    return h


def _deep(m, h):
    for _ in range(700):
        h = h.tanh()
    return m.b((h.T @ h).mean(0, keepdim=True) + h)


def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Net(lambda m, x: ODD[name](m, m.a(x)), **layers()).double().eval()


@pytest.mark.parametrize("name", ODD)
def test_odd_code_is_cut_as_it_is_masked_or_frozen(name):
    model = net(name)
    found = mipp.inspect(model, X)
    kept = {n: list(range(0, g.size, 2)) for n, g in found.groups.items()}
    plan = PruningPlan.of(found.graph, model, kept)
    try:
        cut, masked = outputs(mipp.apply(plan, model), X), outputs(mipp.mask(plan, model), X)
    except (mipp.UnsupportedModelError, RuntimeError):
        cut, masked = [torch.zeros(1)], [torch.ones(1)]
    if distance(cut, masked) > 1e-10:  # then the proof finds it out, and nothing wrong leaves prune
        with pytest.raises(mipp.UnsupportedModelError):
            mipp.prune(model, [X], mipp.Budget(widths={n: len(k) for n, k in kept.items()}), progress=False)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (torch.tensor([torch.nan, 5.0]), torch.tensor([1.0, 2.0])),
        (torch.tensor([7.0, -torch.inf]), torch.tensor([1.0, -torch.inf])),
        (torch.tensor([7.0, -3e38]), torch.tensor([1.0, -3e38])),
        (torch.tensor([9 + 1j]), torch.tensor([1 + 1j])),
        (torch.tensor([9]), torch.tensor([1])),
    ],
)
def test_a_difference_is_seen_beside_infinities_in_complex_and_in_whole_numbers(found, expected):
    assert distance([found], [expected]) > 1
    assert distance([expected], [expected]) == 0


def test_an_attribute_with_the_size_by_chance_stays():
    class Chance(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = self.longest = 16
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x):
            x = x[:, : self.longest]
            return self.b(F.relu(self.a(x)).view(len(x), -1, self.width))

    model = Chance().double().eval()
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    small = mipp.prune(model, [x], mipp.Budget(nodes=0.5), progress=False).model
    assert (small.width, small.longest) == (8, 16)


def test_what_feeds_a_head_that_runs_in_training_only_is_cut_for_both():
    def forward(m, x):
        h = F.relu(m.a(x))
        return (m.b(h), m.extra(h)) if m.training else m.b(F.relu(m.d(h)))

    model = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3), d=nn.Linear(8, 8), extra=nn.Linear(8, 2)).double().eval()
    assert set(mipp.inspect(model, X).groups["a"].consumers) == {"b", "d", "extra"}
    small = mipp.prune(model, [X], mipp.Budget(nodes=0.5), progress=False).model
    assert small.a.out_features == small.d.out_features == small.extra.in_features < 8
    assert [out.shape for out in small.train()(X)] == [(len(X), 3), (len(X), 2)]


def test_tensors_that_the_model_keeps_are_not_changed():
    model = net("normalised")
    model.state = model.a(X).detach() * model.a.weight.sum()
    before = model.state.detach().clone()
    model.function = lambda m, x: m.b(m.a(x)) + m.state.mul_(0.5)[:, :3]
    mipp.inspect(model, X)
    assert_same([model.state.detach()], [before])


def test_a_forward_that_the_instance_carries_is_masked_too():
    """As libraries patch models they load; the class alone computes something else."""
    model = Net(lambda m, x: m.b(F.layer_norm(m.a(x), (m.a.out_features,))), **layers()).double().eval()
    model.forward = functools.partial(lambda m, x: type(m).forward(m, x) + m.b(m.a(x)), model)
    found = mipp.inspect(model, X)
    plan = PruningPlan.of(found.graph, model, {"a": [1, 2, 5]})
    assert_same(outputs(mipp.apply(plan, model), X), outputs(mipp.mask(plan, model), X))


def test_dataclasses_with_slots_go_in_and_out():
    class Slotted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, given):
            return Pair(self.b(F.relu(self.a(given.x))), given.name)

    model = Slotted().double()
    small = mipp.prune(model, [(Pair(X, "some"),)], mipp.Budget(nodes=0.5), progress=False).model
    assert small(Pair(X, "more")).x.shape == (5, 3)
    assert small.a.out_features == 4
