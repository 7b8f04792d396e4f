"""Controls: the widths of another method with other weights."""

import copy
import dataclasses

import pytest
import torch
from tasks import chain, made_task, relu_chain, task, trained_task
from torch import nn

import mipp
from mipp.methods import (
    L1,
    MIPP,
    Random,
    Reinitialised,
    Scratch,
)


def untrained(model: nn.Module, *, fraction: float = 1.0, after_step=lambda: None) -> None:
    after_step()


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


def test_the_reinitialised_control_keeps_the_nodes_and_changes_every_weight():
    given = task(chain())
    budget = mipp.Budget(macs=0.5)
    plan, state = Reinitialised(like=L1()).plan(given, budget)
    assert plan.kept == L1().plan(given, budget).kept
    assert all((state[name] != weight).all() for name, weight in given.model.state_dict().items())
    assert torch.equal(Reinitialised(like=L1()).plan(given, budget)[1]["0.weight"], state["0.weight"])


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_was_initialised_with_the_seed_of_the_task_gets_other_weights(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        given = dataclasses.replace(task(chain().float()), seed=seed)
    _, state = Reinitialised(like=L1()).plan(given, mipp.Budget(macs=0.5))
    assert all((state[name] != weight).all() for name, weight in given.model.state_dict().items())


def test_scratch_trains_a_network_of_these_widths():
    given, training = trained_task(chain())
    plan, state = Scratch(like=L1()).plan(given, mipp.Budget(macs=0.5))
    whole = copy.deepcopy(given.model)
    whole.load_state_dict(state)
    small = mipp.apply(plan, whole)
    assert plan.kept == L1().plan(given, mipp.Budget(macs=0.5)).kept
    assert len(training.seen) == 10
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in training.seen[-1].items())
