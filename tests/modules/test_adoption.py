"""A model that takes over the widths of its pruned form computes what that computes, with the modules it had."""

import pytest
import torch
from cases import PRUNABLE, inspected, one_in, outputs
from networks import linear_layers, normal

import mipp
from mipp.modules.adoption import adopt
from mipp.plan.plan import PruningPlan

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("case", one_in(4, PRUNABLE), ids=str)
def test_the_model_computes_what_its_pruned_form_computes(case):
    model, found = inspected(case)
    model = case.model()
    plan = PruningPlan.of(found.graph, model, {n: range((g.size + 1) // 2) for n, g in found.groups.items()})
    modules, small = list(model.modules()), mipp.apply(plan, model)
    expected, batch = outputs(mipp.apply(plan, model), case.batch(3, 5)), case.batch(3, 5)
    adopt(model, small)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, batch), expected, strict=True))
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert repr(model) == repr(small)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in small.named_parameters()}


def test_hooks_stay_and_other_models_are_refused():
    model = linear_layers(lambda m, x: m.b(m.a(x).relu()), 4, 6, 3)
    calls = []
    model.a.register_forward_hook(lambda *_: calls.append(1))
    small = mipp.prune(model, [normal(32, 4)], mipp.Budget(nodes=0.5), progress=False).model
    calls.clear()
    adopt(model, small)
    model(normal(2, 4))
    assert calls == [1]
    with pytest.raises(mipp.MippError, match="Only one of two models has a module"):
        adopt(model, torch.nn.Linear(4, 3))


class Settings:
    def __init__(self, heads):
        self.heads = heads


class Heads(torch.nn.Module):
    """Asks an object of settings, which other modules may share, for the number of its heads."""

    def __init__(self):
        super().__init__()
        self.config = Settings(4)
        self.value, self.out = torch.nn.Linear(6, 12), torch.nn.Linear(12, 5)

    def forward(self, x):
        heads = self.value(x).view(len(x), self.config.heads, -1)
        return self.out((heads * heads.mean(2, keepdim=True)).flatten(1))


def test_sizes_in_settings_are_taken_over():
    model = Heads().eval()
    settings, result = model.config, mipp.prune(model, [normal(32, 6)], mipp.Budget(nodes=0.5), progress=False)
    expected = result.model(normal(2, 6))
    adopt(model, result.model, result.plan.attributes)
    assert torch.equal(model(normal(2, 6)), expected)
    assert settings.heads == 4
