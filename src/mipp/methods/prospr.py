"""Pruning that looks through the first steps of training.

Source: Alizadeh et al., Prospect Pruning: Finding Trainable Weights at Initialization using Meta-Gradients, ICLR 2022,
arXiv 2202.08132.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mipp.data.calibration import Batch
from mipp.graph.call import Call
from mipp.methods.base import Needs, OneShot, Scope
from mipp.methods.common.gradients import derivatives, differentiable, loss_on, parameters_of, require_loss
from mipp.methods.common.slices import axis_factor
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings


@dataclass(frozen=True)
class ProsPr(OneShot):
    """Keeps the nodes on which the loss after some steps of training depends most: |d loss(w_T) / d gate|.

    The gates multiply the initial weights that produce a node; the derivative goes through the steps (Alizadeh et al.
    2022, structured form).

    Attributes:
        steps: T, the number of gradient steps, each on the next batch.
        learning_rate: Of the steps.
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    steps: int = 3
    learning_rate: float = 0.1
    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(
        labels=True,
        gradients=True,
        passes="4 batches, twice backward",
        memory="the graphs of 4 batches",
        stage="initialisation",
    )

    def __post_init__(self) -> None:
        check_settings(self, steps="[0, inf)", learning_rate="(0, inf]")

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        require_loss(task)
        model = differentiable(task.model, batch_statistics=True)
        weights = parameters_of(model)
        first = next(iter(weights.values()))
        gates = {n: torch.ones(g.size, dtype=first.dtype, device=first.device) for n, g in task.graph.groups.items()}
        for gate in gates.values():
            gate.requires_grad_()
        with torch.enable_grad():
            weights = _gate(task, weights, gates)
            for step in range(self.steps):
                slopes = derivatives(_loss(task, model, weights, step), weights, create_graph=True)
                weights = {name: w - self.learning_rate * slopes[name] for name, w in weights.items()}
            found = derivatives(_loss(task, model, weights, self.steps), gates)
        return {name: slope.abs().double().cpu() for name, slope in found.items()}


class _Called(nn.Module):
    """A call as a module, so that the weights of the model can be given from outside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, call: Call) -> Any:
        return call(self.model)


def _loss(task: Task, model: nn.Module, weights: Mapping[str, Tensor], step: int) -> Tensor:
    batch: Batch = task.batches[step % len(task.batches)]
    wrapper, given = _Called(model), {f"model.{name}": w for name, w in weights.items()}
    call = Call((batch.call,), {}, lambda _, inner: functional_call(wrapper, given, (inner,)))
    return loss_on(task, model, Batch(call, batch.samples, batch.labels))


def _gate(task: Task, weights: Mapping[str, Tensor], gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, those that produce nodes multiplied by the gates of these."""
    found = dict(weights)
    for name, group in task.graph.groups.items():
        for s in group.slices:
            if not s.reads and s.tensor in found:
                found[s.tensor] = found[s.tensor] * axis_factor(s, gates[name], found[s.tensor])
    return found
