"""Tasks for the tests of the methods: a chain, a loss, gates, and what is derived from them."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import mipp
from mipp.data.calibration import read
from mipp.methods import (
    Task,
)
from mipp.plan.cost import cost_of


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def task(model: nn.Module, batches=2, samples=7, shape=(4,), train=None) -> Task:
    generator, dtype = torch.Generator().manual_seed(5), next(model.parameters()).dtype
    data = [
        (torch.randn(samples, *shape, generator=generator, dtype=torch.float64).to(dtype), torch.arange(samples) % 3)
        for _ in range(batches)
    ]
    found = mipp.inspect(model, data[0][0][:2])
    return Task(model, found.graph, cost_of(found.graph), read(mipp.Calibration(data), None), F.cross_entropy, train)


def mean_loss(given: Task, weights, temperature: float = 1.0) -> torch.Tensor:
    losses = [
        F.cross_entropy(functional_call(given.model, weights, b.call.args) / temperature, b.labels) * b.samples
        for b in given.batches
    ]
    return torch.stack(losses).sum() / sum(b.samples for b in given.batches)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def node_parts(given: Task, values, group: str, node: int) -> torch.Tensor:
    """All entries of one node, by hand, for a chain of linear layers named 0, 2, 4."""
    after = str(int(group) + 2)
    rows = [
        values[f"{group}.weight"][node],
        values[f"{group}.bias"][node].reshape(1),
        values[f"{after}.weight"][:, node],
    ]
    return torch.cat(rows)


def gates_by_difference(function, sizes, step=1e-5):
    """Derivatives of `function(gates)` by each gate at one."""
    found = {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}
    for name, size in sizes.items():
        for node in range(size):
            values = []
            for sign in (1, -1):
                gates = {n: torch.ones(s, dtype=torch.float64) for n, s in sizes.items()}
                gates[name][node] += sign * step
                values.append(float(function(gates).detach()))
            found[name][node] = (values[0] - values[1]) / (2 * step)
    return found


SIZES = {"0": 6, "2": 5}


def gated_outputs(model: nn.Sequential, gates, x, weights=None):
    """The chain with gates on its activations."""
    w = dict(model.named_parameters()) if weights is None else weights
    x = torch.tanh(F.linear(x, w["0.weight"], w["0.bias"])) * gates["0"]
    x = torch.tanh(F.linear(x, w["2.weight"], w["2.bias"])) * gates["2"]
    return F.linear(x, w["4.weight"], w["4.bias"])


class Training:
    """Ten steps of SGD for a whole training; notes the weights after each."""

    def __init__(self, data) -> None:
        self.data, self.seen = data, []

    def __call__(self, model, *, fraction=1.0, after_step=lambda: None):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(max(1, round(10 * fraction))):
            optimiser.zero_grad()
            F.cross_entropy(model(self.data[0]), self.data[1]).backward()
            optimiser.step()
            after_step()
            self.seen.append(copy.deepcopy(model.state_dict()))


def trained_task(model: nn.Module) -> tuple[Task, Training]:
    given = task(model)
    training = Training((given.batches[0].call.args[0], given.batches[0].labels))
    return Task(model, given.graph, given.cost, given.batches, train=training), training


def relu_chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def made_task(model: nn.Module, x: torch.Tensor | None = None) -> Task:
    graph = mipp.inspect(model, torch.randn(2, 4).to(next(model.parameters()).dtype) if x is None else x).graph
    return Task(model, graph, cost_of(graph))


def kept_by(model: nn.Module, method: object, seed: int = 0, **budget: object) -> dict[str, tuple[int, ...]]:
    data = torch.randn(256, 4, dtype=torch.float64)
    result = mipp.prune(model, [data], mipp.Budget(**budget), method, compensate=False, seed=seed, progress=False)
    return dict(result.plan.kept)
