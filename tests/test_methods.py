"""What each method promises on its own; what all promise stands in test_laws.py."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mipp
from mipp.methods import (
    CHIP,
    IMP,
    L1,
    L2,
    MIPP,
    OTO,
    SNIP,
    SOSPI,
    GraSP,
    HRank,
    IterGraSP,
    IterSNIP,
    ProsPr,
    Random,
    Reinitialised,
    Scratch,
    SynFlow,
    Task,
    Taylor,
    ThiNet,
)
from mipp.plan.cost import cost_of


def relu_chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def made_task(model: nn.Module, x: torch.Tensor | None = None) -> Task:
    graph = mipp.inspect(model, torch.randn(2, 4).to(next(model.parameters()).dtype) if x is None else x).graph
    return Task(model, graph, cost_of(graph))


def untrained(model: nn.Module, *, fraction: float = 1.0, after_step=lambda: None) -> None:
    after_step()


def kept_by(model: nn.Module, method: object, seed: int = 0, **budget: object) -> dict[str, tuple[int, ...]]:
    data = torch.randn(256, 4, dtype=torch.float64)
    result = mipp.prune(model, [data], mipp.Budget(**budget), method, compensate=False, seed=seed, progress=False)
    return dict(result.plan.kept)


@pytest.mark.parametrize(("method", "order"), [(L1(), 1), (L2(), 2)])
def test_magnitude_keeps_the_largest_norms(method, order):
    model = relu_chain()
    norms = np.linalg.norm(model[0].weight.detach().numpy(), ord=order, axis=1)
    assert kept_by(model, method, widths={"0": 2, "2": 4})["0"] == tuple(sorted(np.argsort(norms)[-2:].tolist()))


def test_global_magnitude_compares_scores_relative_to_their_layer():
    model = relu_chain()
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    assert kept_by(model, L1(scope="global"), nodes=0.5) == kept_by(chain_like(model, 1e3), L1(scope="global"), nodes=0.5)


def chain_like(model: nn.Sequential, factor: float) -> nn.Sequential:
    other = relu_chain()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[2].weight.mul_(factor)
    return other


def test_random_depends_on_the_seed_and_on_nothing_else():
    model = relu_chain()
    draws = {kept_by(model, Random(), seed=s, widths={"0": 3, "2": 2})["0"] for s in range(8)}
    assert len(draws) > 1
    assert kept_by(model, Random(), seed=3, nodes=0.5) == kept_by(relu_chain(), Random(), seed=3, nodes=0.5)


@pytest.mark.parametrize("order", ["greedy", "mi"])
def test_the_target_is_what_the_kept_nodes_downstream_read(order):
    """Nodes 0-2 of the first layer speak only to nodes 2 and 3 of the second, which nothing listens to."""
    model = relu_chain()
    with torch.no_grad():
        model[2].weight[:2, :3] = 0
        model[2].weight[2:, 3:] = 0
        model[2].weight[2:] *= 100  # loud, but unheard
        model[4].weight[:, 2:] = 0
    chosen = kept_by(model, MIPP(order=order), widths={"0": 3, "2": 2})
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
    chosen = kept_by(model, MIPP(), params=0.7)
    assert len(chosen["loud"]) < len(chosen["quiet"])


def test_mipp_without_a_budget_needs_a_confidence_and_then_drops_what_says_nothing():
    model = relu_chain()
    with torch.no_grad():
        model[2].weight[:, 0] = 0
    with pytest.raises(mipp.MissingRequirementError, match="confidence"):
        kept_by(model, MIPP())
    assert 0 not in kept_by(model, MIPP(confidence=0.9))["0"]


def test_widths_that_a_test_decides_are_rounded_up_and_alike_where_the_budget_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[2].weight[:, :5] = 0
    method = MIPP(confidence=0.95, margin=0.001)
    usual, rounded, alike = (kept_by(model, method, **options) for options in ({}, {"round_to": 4}, {"uniform": True}))
    assert len(usual["0"]) % 4
    assert [len(nodes) for nodes in rounded.values()] == [4 * -(-len(nodes) // 4) for nodes in usual.values()]
    assert set(usual["2"]) <= set(rounded["2"])
    assert len(alike["0"]) == len(alike["2"]) == max(map(len, usual.values()))


def test_nodes_that_stay_to_round_a_width_up_are_not_counted_as_lost():
    model, data = relu_chain(), [torch.randn(256, 4, dtype=torch.float64)]
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
        (SOSPI, {"samples": 0}),
        (HRank, {"samples": 0}),
        (CHIP, {"samples": -1}),
        (GraSP, {"temperature": -1.0}),
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
    notes = mipp.prune(relu_chain(), data, budget, Greedy(), progress=False).report.notes
    assert any("returned a plan of 10 nodes, more than the 5 of the budget" in note for note in notes)
    assert not any("more than" in note for note in mipp.prune(relu_chain(), data, budget, L1(), progress=False).report.notes)


def test_a_loss_that_raises_anything_is_told_as_such():
    data = [(torch.randn(40, 4, dtype=torch.float64), torch.arange(40) % 5)]  # of two classes
    with pytest.raises(mipp.CalibrationError, match=r"loss_fn\(output, labels\) raised IndexError"):
        mipp.prune(relu_chain(), data, mipp.Budget(nodes=0.5), Taylor(), loss_fn=F.cross_entropy, progress=False)


def test_no_batch_is_cut_into_one_of_a_single_sample():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    data = [(torch.randn(129, 4), torch.arange(129) % 2)]
    assert mipp.prune(model, data, mipp.Budget(nodes=0.5), SNIP(), loss_fn=F.cross_entropy, progress=False).plan


class Propagation(nn.Module):
    """A graph network: what a node says depends on all of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, adjacency):
        return adjacency @ self.b((adjacency @ self.a(x)).relu())


@pytest.mark.parametrize("method", [SynFlow(rounds=2), SOSPI(samples=4)], ids=lambda m: type(m).__name__)
def test_a_batch_that_cannot_be_cut_stays_whole(method):
    adjacency = (torch.rand(20, 20) < 0.3).float().softmax(1)
    data = [((torch.randn(20, 5), adjacency), torch.arange(20) % 3)]
    found = mipp.prune(
        Propagation(), data, mipp.Budget(nodes=0.5), method, loss_fn=F.cross_entropy, compensate=False, progress=False
    )
    assert found.plan.widths == {"a": 4}


def test_what_was_measured_for_one_seed_is_not_taken_for_another():
    found = [kept_by(relu_chain(), Random(), seed=seed, nodes=0.5) for seed in (0, 1)]
    task = made_task(relu_chain())
    again = [Random().plan(dataclasses.replace(task, seed=seed), mipp.Budget(nodes=0.5)).kept for seed in (0, 1)]
    assert again == found


@pytest.mark.parametrize("control", [Random, Reinitialised, Scratch])
def test_controls_take_widths_that_another_method_finds_by_a_test(control):
    model, x, ours = relu_chain(), torch.randn(256, 4, dtype=torch.float64), MIPP(confidence=0.9)
    expected = mipp.prune(model, [x], method=ours, compensate=False, progress=False).plan.widths
    found = mipp.prune(model, [x], method=control(like=ours), train=untrained, compensate=False, progress=False)
    assert found.plan.widths == expected


def test_weights_that_a_method_made_are_refitted_only_on_demand():
    model, x = relu_chain(), torch.randn(256, 4, dtype=torch.float64)
    results = {
        how: mipp.prune(model, [x], mipp.Budget(nodes=0.5), Reinitialised(), compensate=how, progress=False)
        for how in (False, True, mipp.Refit())
    }
    bare, default, refitted = (result.model.state_dict() for result in results.values())
    assert all(torch.equal(tensor, default[name]) for name, tensor in bare.items())
    assert not all(torch.equal(tensor, refitted[name]) for name, tensor in bare.items())
    notes = ["\n".join(result.report.notes) for result in results.values()]
    assert ["Reinitialised returns weights of its own" in text for text in notes] == [False, True, False]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_reinitialised_draws_anew_what_a_layer_does_not_reset(norm):
    model = nn.Sequential(norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))
    _, state = Reinitialised().plan(made_task(model), mipp.Budget(nodes=0.5))
    assert all(not torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_scratch_takes_any_layout_and_leaves_masks_whole():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)
            self.register_buffer("on", torch.tensor([1, 1, 1, 1, 1, 0]).bool()[:, None, None])

        def forward(self, x):
            return self.b(self.a(x) * self.on).mean((2, 3))

    model = Masked().to(memory_format=torch.channels_last)
    task = made_task(model, torch.randn(2, 3, 8, 8))
    plan, state = Scratch().plan(dataclasses.replace(task, train=untrained), mipp.Budget(nodes=0.5))
    assert torch.equal(state["on"], model.on)
    assert plan.widths == {"a": 3}
