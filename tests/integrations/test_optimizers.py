"""Optimiser state carried over the cut: a run goes on as if the removed nodes had never been there."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import mipp
from mipp.integrations.optimizers import carry_over, carry_over_average

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
}
DEAD = (1, 4, 6)


def network():
    """Hidden nodes 1, 4 and 6 read nothing and are read by nobody: their weights have no gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for node in DEAD:
            model[0].weight[node] = model[0].bias[node] = 0
            model[2].weight[:, node] = 0
    return model


def step(model, optimizer, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(16, 5, generator=g).double(), torch.randint(0, 3, (16,), generator=g)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def prune(model):
    kept = {"0": [n for n in range(8) if n not in DEAD]}
    graph = mipp.inspect(model, torch.randn(2, 5).double()).graph
    plan = mipp.PruningPlan.of(graph, model, kept)
    return mipp.Result(mipp.apply(plan, model), plan, report=None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nodes_without_weights_and_gradients_leave_no_trace(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    for seed in range(5):
        step(model, optimizer, seed)
    result = prune(model)
    other = carry_over(optimizer, model, result)
    assert type(other) is type(optimizer)
    for seed in range(5, 15):
        assert step(result.model, other, seed) == pytest.approx(step(model, optimizer, seed), rel=1e-12)


def test_groups_keep_their_settings_and_schedulers_go_on():
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "weight_decay": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for seed in range(3):
        step(model, optimizer, seed)
        scheduler.step()
    result = prune(model)
    other = carry_over(optimizer, model, result, [scheduler])
    assert [g["lr"] for g in other.param_groups] == [0.05, 0.025]
    assert [g["weight_decay"] for g in other.param_groups] == [0, 0.01]
    step(result.model, other, 3)
    scheduler.step()
    assert [g["lr"] for g in other.param_groups] == [0.025, 0.0125]


def test_averages_are_cut_and_go_on():
    model = network()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for seed in range(3):
        step(model, optimizer, seed)
        averaged.update_parameters(model)
    before, result = copy.deepcopy(averaged.state_dict()), prune(model)
    small, other = carry_over_average(averaged, result), carry_over(optimizer, model, result)
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(result.model, other, seed)
        small.update_parameters(result.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in averaged.state_dict().items())
    assert int(small.n_averaged) == 6
    assert small.module[0].weight.shape == (5, 5)


def test_an_optimiser_of_another_model_is_refused():
    model = network()
    with pytest.raises(mipp.MippError, match="not the model's"):
        carry_over(OPTIMIZERS["sgd"](network().parameters()), model, prune(model))
