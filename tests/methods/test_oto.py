"""OTO drives nodes to zero before it removes them."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tasks import chain, trained_task
from torch import nn

import mipp
from mipp.methods import (
    OTO,
)
from mipp.methods.common.slices import weights_by_node
from mipp.methods.oto import half_space


@pytest.mark.parametrize("variant", ["dhspg", "hesso"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_oto_leaves_nothing_to_lose_in_the_nodes_it_removes(variant, dtype):
    given, _ = trained_task(chain().to(dtype))
    plan, state = OTO(variant=variant, start=0.2).plan(given, mipp.Budget(nodes=0.5))
    whole = copy.deepcopy(given.model)
    whole.load_state_dict(state)
    for name, group in given.graph.groups.items():
        sizes = sum(part.abs().sum(1) for part in weights_by_node(group, dict(whole.named_parameters()), reads=False))
        assert set(torch.nonzero(sizes == 0).flatten().tolist()) == set(range(group.size)) - set(plan.kept[name])
    x = given.batches[0].call.args[0]
    torch.testing.assert_close(mipp.apply(plan, whole)(x), whole(x))


def least_redundant(weights, gradient, count: int) -> dict[str, set[int]]:
    """The cosine of weights and gradient, and the inverse of the norm over the number of weights, each of norm 1."""
    cosines, small = [], []
    for name in ("0", "2"):
        x, g = (torch.cat([of[f"{name}.weight"], of[f"{name}.bias"][:, None]], 1) for of in (weights, gradient))
        cosines.append(F.cosine_similarity(x, g))
        small.append(x.shape[1] / x.norm(dim=1))
    cosine, size = torch.cat(cosines), torch.cat(small)
    nodes = (cosine / cosine.norm() + size / size.norm()).argsort()[:count].tolist()
    first = len(weights["0.bias"])
    return {"0": {n for n in nodes if n < first}, "2": {n - first for n in nodes if n >= first}}


@pytest.mark.parametrize("leaves", ["gradients", "zeros", "none"])
def test_oto_scores_by_the_gradient_or_else_by_the_way_of_the_weights(leaves):
    given, training = trained_task(chain())
    seen: list[nn.Module] = []

    def ending_at_rate_zero(model, *, fraction=1.0, after_step=lambda: None):
        training(model, fraction=fraction)
        model.zero_grad(set_to_none=leaves != "zeros")
        if leaves == "gradients":
            F.cross_entropy(model(training.data[0]), training.data[1]).backward()
        after_step()  # of a step of no length
        seen.append(copy.deepcopy(model))

    plan, _ = OTO(start=0.2).plan(dataclasses.replace(given, train=ending_at_rate_zero), mipp.Budget(nodes=0.5))
    weights, start = seen[0].state_dict(), given.model.state_dict()
    if leaves == "gradients":
        seen[0].zero_grad()
        F.cross_entropy(seen[0](training.data[0]), training.data[1]).backward()
        gradient = {name: p.grad for name, p in seen[0].named_parameters()}
    else:
        gradient = {name: start[name] - weight for name, weight in weights.items()}
    assert {n: set(k) for n, k in plan.kept.items()} == least_redundant(weights, gradient, sum(plan.widths.values()))


class Single(nn.Module):
    """Fixes its precision in its code."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.a(x.float()).relu())


def test_oto_trains_a_model_that_runs_in_one_precision_only():
    given, _ = trained_task(Single())
    plan, _ = OTO(start=0.2).plan(given, mipp.Budget(nodes=0.5))
    assert sum(plan.widths.values()) == 3
    assert not given.notes


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_the_report_says_what_it_costs_to_cut_where_zero_is_not_silence(activation):
    model = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3)).double()
    given, _ = trained_task(model)
    OTO(start=0.2).plan(given, mipp.Budget(nodes=0.5))
    assert any("changes the outputs" in note for note in given.notes) == (activation is nn.Sigmoid)


def test_half_space_projection_of_two_nodes():
    """x = (1, 0): a step to (0.5, 5) stays, a step to (-0.1, 5) does not; with a larger least part neither does."""
    before, after = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.5, 5.0], [-0.1, 5.0]])
    square, inner = before.square().sum(1), (before * after).sum(1)
    assert half_space(square, inner, 0.0).tolist() == [True, False]
    assert half_space(square, inner, 0.6).tolist() == [False, False]
