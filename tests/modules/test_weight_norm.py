"""Weight norm keeps a direction and a length; scores are those of the weights that layers compute with."""

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import assert_same, outputs
from networks import image_batches, image_network, prune_images, refusal
from tasks import chain, task
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import mipp
from mipp.methods import FPGM, IMP, L1, L2, LAMP, OTO, IterGraSP, IterSNIP, SynFlow
from mipp.methods.common.slices import weights_by_node

OLD = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")


def normed(model: nn.Sequential, dim: int | None = 0) -> nn.Sequential:
    """A chain computing the same, its weights as directions of another size and lengths."""
    for layer in (layer for layer in model if isinstance(layer, nn.Linear)):
        parametrizations.weight_norm(layer, dim=dim)
        with torch.no_grad():
            layer.parametrizations.weight.original1.mul_(torch.rand_like(layer.bias)[:, None] + 1 if dim == 0 else 3)
    return model


def train(model, *, fraction=1.0, after_step=lambda: None):
    x, y = torch.randn(32, 4).double(), torch.arange(32) % 3
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(round(100 * fraction)):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
        after_step()


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("method", [L1(), L2(), FPGM(), LAMP()], ids=lambda m: type(m).__name__)
def test_magnitudes_are_those_of_the_weights_that_layers_compute_with(method, dim):
    plain = chain()
    found = method.rank(task(normed(copy.deepcopy(plain), dim)))
    for name, scores in method.rank(task(plain)).items():
        torch.testing.assert_close(found[name], scores)


@pytest.mark.parametrize(
    "method", [IterSNIP(rounds=3), IterGraSP(rounds=3), SynFlow(rounds=3), IMP()], ids=lambda m: type(m).__name__
)
def test_what_is_removed_in_one_round_is_silent_in_the_next(method):
    found = method.plan(task(normed(chain()), train=train), mipp.Budget(nodes=0.4))
    plan = found[0] if isinstance(found, tuple) else found
    assert sum(plan.widths.values()) == 4


@pytest.mark.parametrize("variant", ["dhspg", "hesso"])
def test_oto_drives_nodes_to_zero_by_their_length(variant):
    given = task(normed(chain()), train=train)
    plan, state = OTO(variant=variant).plan(given, mipp.Budget(nodes=0.5))
    assert all(bool(torch.isfinite(t).all()) for t in state.values())
    lengths = {n: p for n, p in state.items() if n.endswith("original0")}
    for name, group in given.graph.groups.items():
        zero = sum(part.abs().sum(1) for part in weights_by_node(group, lengths, reads=False)) == 0
        assert set(torch.nonzero(zero).flatten().tolist()) == set(range(group.size)) - set(plan.kept[name])
    assert any("changes the outputs" in note for note in given.notes)  # directions are shorter when they are cut


@OLD
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("dim", [0, None])
def test_an_emptied_group_says_nothing_to_a_layer_behind_weight_norm(norm, dim):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), norm(nn.Linear(4, 5), dim=dim), nn.ReLU(), nn.Linear(5, 3))
    graph = mipp.inspect(model, torch.randn(8, 6)).graph
    first = next(iter(graph.groups))
    plan = mipp.PruningPlan.of(graph, model, {first: ()})
    x = torch.randn(8, 6)
    expected = model[4](torch.relu(model[2].bias)).expand(8, -1)
    for made in (mipp.apply(plan, model), mipp.mask(plan, model)):
        torch.testing.assert_close(made(x), expected)


class Gated(nn.Module):
    """Names that mean something else here."""

    def __init__(self):
        super().__init__()
        self.weight_g, self.weight_v = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6, 4))
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        return self.out((x @ self.weight_g.T).sigmoid() * (x @ self.weight_v.T))


def test_gates_and_values_are_no_weight_norm():
    model = Gated()
    expected = model.weight_g.norm(dim=1) + model.weight_v.norm(dim=1)
    (found,) = L2().rank(task(model)).values()
    torch.testing.assert_close(found, expected.detach().double())


def test_the_model_keeps_its_parametrization():
    model = normed(chain())
    found = mipp.prune(model, [torch.randn(40, 4).double()], mipp.Budget(nodes=0.5), L2(), progress=False).model
    assert all(parametrize.is_parametrized(layer, "weight") for layer in found if isinstance(layer, nn.Linear))


pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers_are_pruned_right_or_frozen_with_the_reason(norm):
    model = image_network()
    getattr(nn.utils.parametrizations, norm)(model[4])
    inspection = mipp.inspect(model, image_batches()[0])
    assert all(f.reason for f in inspection.frozen)
    if norm == "orthogonal":  # every width changes what it computes, so all is frozen
        assert "0: " in refusal(mipp.UnsupportedModelError, model=model)
        return
    result = prune_images(model, image_batches(), mipp.Budget(nodes=0.8))
    names = {f.name.split(".parametrizations")[0] for f in inspection.frozen} | set(inspection.groups)
    assert any(name.startswith("4") for name in names)
    cut, masked = mipp.apply(result.plan, model), mipp.mask(result.plan, model)
    assert_same(outputs(cut.eval(), image_batches()[0]), outputs(masked.eval(), image_batches()[0]), rtol=1e-4)


class Shifted(nn.Module):
    """A weight as a mean and what differs from it: two tensors of the shapes that weight norm has."""

    def forward(self, mean, rest):
        return mean + rest

    def right_inverse(self, weight):
        mean = weight.mean(1, keepdim=True)
        return mean, torch.zeros_like(weight)


def test_another_parametrization_of_two_tensors_is_not_taken_for_weight_norm():
    """Its zeros are no directions that are gone."""
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    parametrize.register_parametrization(model[2], "weight", Shifted())
    x = torch.randn(16, 8).double()
    found = mipp.inspect(model, x)
    for kept in (range(12), range(7)):
        plan = mipp.PruningPlan.of(found.graph, model, dict.fromkeys(found.groups, kept))
        expected = model if len(kept) == 12 else mipp.mask(plan, model)
        assert_same([mipp.apply(plan, model)(x).detach()], [expected(x).detach()])
