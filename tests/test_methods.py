"""What each method promises on its own; what all promise stands in test_laws.py."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp.methods import IMP, L1, L2, MIPP, OTO, IterGraSP, IterSNIP, ProsPr, Random, SynFlow, ThiNet


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def kept(model: nn.Module, method: object, seed: int = 0, **budget: object) -> dict[str, tuple[int, ...]]:
    data = torch.randn(256, 4, dtype=torch.float64)
    result = mipp.prune(model, [data], mipp.Budget(**budget), method, compensate=False, seed=seed, progress=False)
    return dict(result.plan.kept)


@pytest.mark.parametrize(("method", "order"), [(L1(), 1), (L2(), 2)])
def test_magnitude_keeps_the_largest_norms(method, order):
    model = chain()
    norms = np.linalg.norm(model[0].weight.detach().numpy(), ord=order, axis=1)
    assert kept(model, method, widths={"0": 2, "2": 4})["0"] == tuple(sorted(np.argsort(norms)[-2:].tolist()))


def test_global_magnitude_compares_scores_relative_to_their_layer():
    model = chain()
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    assert kept(model, L1(scope="global"), nodes=0.5) == kept(chain_like(model, 1e3), L1(scope="global"), nodes=0.5)


def chain_like(model: nn.Sequential, factor: float) -> nn.Sequential:
    other = chain()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[2].weight.mul_(factor)
    return other


def test_random_depends_on_the_seed_and_on_nothing_else():
    model = chain()
    draws = {kept(model, Random(), seed=s, widths={"0": 3, "2": 2})["0"] for s in range(8)}
    assert len(draws) > 1
    assert kept(model, Random(), seed=3, nodes=0.5) == kept(chain(), Random(), seed=3, nodes=0.5)


@pytest.mark.parametrize("order", ["greedy", "mi"])
def test_the_target_is_what_the_kept_nodes_downstream_read(order):
    """Nodes 0-2 of the first layer speak only to nodes 2 and 3 of the second, which nothing listens to."""
    model = chain()
    with torch.no_grad():
        model[2].weight[:2, :3] = 0
        model[2].weight[2:, 3:] = 0
        model[2].weight[2:] *= 100  # loud, but unheard
        model[4].weight[:, 2:] = 0
    chosen = kept(model, MIPP(order=order), widths={"0": 3, "2": 2})
    assert chosen == {"0": (3, 4, 5), "2": (0, 1)}


def test_the_residual_stream_sets_the_scale():
    """The same branch matters less where it is added to a loud stream: its nodes go first."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.quiet = nn.Linear(4, 8), nn.Linear(4, 8)
            self.up_loud, self.up_quiet = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = 100 * x + self.up_loud(self.loud(x).relu())
            return first / 100 + x + self.up_quiet(self.quiet(x).relu())

    model = Block().double()
    with torch.no_grad():
        for a, b in ((model.loud, model.quiet), (model.up_loud, model.up_quiet)):
            b.weight.copy_(a.weight)
            b.bias.copy_(a.bias)
    chosen = kept(model, MIPP(), params=0.7)
    assert len(chosen["loud"]) < len(chosen["quiet"])


def test_mipp_without_a_budget_needs_a_confidence_and_then_drops_what_says_nothing():
    model = chain()
    with torch.no_grad():
        model[2].weight[:, 0] = 0
    with pytest.raises(mipp.MissingRequirementError, match="confidence"):
        kept(model, MIPP())
    assert 0 not in kept(model, MIPP(confidence=0.9))["0"]


def test_widths_that_a_test_decides_are_rounded_up_and_alike_where_the_budget_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[2].weight[:, :5] = 0
    method = MIPP(confidence=0.95, margin=0.001)
    usual, rounded, alike = (kept(model, method, **options) for options in ({}, {"round_to": 4}, {"uniform": True}))
    assert len(usual["0"]) % 4
    assert [len(nodes) for nodes in rounded.values()] == [4 * -(-len(nodes) // 4) for nodes in usual.values()]
    assert set(usual["2"]) <= set(rounded["2"])
    assert len(alike["0"]) == len(alike["2"]) == max(map(len, usual.values()))


def test_nodes_that_stay_to_round_a_width_up_are_not_counted_as_lost():
    model, data = chain(), [torch.randn(256, 4, dtype=torch.float64)]
    with torch.no_grad():
        model[2].weight[:, 0] = 0
    for options in ({"round_to": 6}, {"uniform": True}):
        plan = mipp.prune(model, data, mipp.Budget(**options), MIPP(confidence=0.9), progress=False).plan
        for name, (lost, whole) in plan.information.items():
            assert 0 <= lost <= whole
            assert lost == 0 or plan.widths[name] < plan.groups[name].size


@pytest.mark.parametrize(
    "fields",
    [
        {"estimator": "oracle"},
        {"order": "best"},
        {"confidence": 0.3},
        {"confidence": 1.0},
        {"noise": -1},
        {"positions": 0},
    ],
)
def test_wrong_fields_are_refused(fields):
    with pytest.raises(mipp.MippError, match=next(iter(fields))):
        MIPP(**fields)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (SynFlow, {"rounds": 0}),
        (IterSNIP, {"rounds": 0}),
        (IterGraSP, {"rounds": -1}),
        (IMP, {"per_round": 0.0}),
        (IMP, {"per_round": 1.0}),
        (IMP, {"rewind": 0.0}),
        (OTO, {"start": 0.0}),
        (OTO, {"ramp": 1.5}),
        (ProsPr, {"learning_rate": 0.0}),
        (ThiNet, {"locations": 0}),
    ],
)
def test_settings_out_of_range_are_refused_in_words(method, fields):
    with pytest.raises(mipp.MippError, match=rf"{method.__name__}\(.*{next(iter(fields))}=.*\): expected"):
        method(**fields)


class Greedy(Random):
    """Keeps everything, whatever the budget says."""

    def plan(self, task, budget):
        return task.plan({name: tuple(range(group.size)) for name, group in task.graph.groups.items()}, self, budget)


def test_a_plan_beyond_the_budget_is_told_in_the_report():
    data, budget = [torch.randn(40, 4, dtype=torch.float64)], mipp.Budget(nodes=0.5)
    notes = mipp.prune(chain(), data, budget, Greedy(), progress=False).report.notes
    assert any("returned a plan of 10 nodes, more than the 5 of the budget" in note for note in notes)
    assert not any("more than" in note for note in mipp.prune(chain(), data, budget, L1(), progress=False).report.notes)
