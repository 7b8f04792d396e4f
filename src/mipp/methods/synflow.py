"""Synaptic flow: pruning without data, without losing a layer.

Source: Tanaka, Kunin, Yamins & Ganguli, Pruning neural networks without any data by iteratively conserving synaptic
flow, NeurIPS 2020, arXiv 2006.05467.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mipp.data.calibration import Batch
from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.trees import tensors_in
from mipp.methods.base import Needs
from mipp.methods.common.gradients import call_with_gradients, differentiable, parameters_of
from mipp.methods.common.scores import InRounds, Structure, node_scores
from mipp.plan.task import Task


@dataclass(frozen=True)
class SynFlow(InRounds):
    """Keeps the nodes that the flow through the absolute weights passes: |weight x dR/dweight| (Tanaka et al. 2020).

    R is the sum of the outputs for an input of ones when every parameter and buffer is replaced by its absolute value.

    Attributes:
        rounds: Number of rounds; the fraction kept falls geometrically.
        structure: How scores of weights become scores of nodes, "l1", "l2" or "gate".
    """

    rounds: int = 100
    structure: Structure = "l1"
    needs: ClassVar[Needs] = Needs(
        data=False, gradients=True, passes="none (100 on one sample)", memory="one gradient", stage="initialisation"
    )

    def scores(self, task: Task, model: nn.Module) -> Mapping[str, Tensor]:
        return node_scores(task.graph, flow(model, task.batches[0]), self.structure)


def flow(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Synaptic flow through every weight, in float64 where the model runs in it."""
    call = _one(batch)
    try:
        wide = call.map(lambda t: t.double() if t.is_floating_point() else t)
        return _flow(differentiable(model).double(), wide)
    except UnsupportedModelError:  # the model fixes a dtype in its code
        return _flow(differentiable(model), call)


def _flow(model: nn.Module, call: Call) -> dict[str, Tensor]:
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.abs_()
    outputs = [t for t in tensors_in(call_with_gradients(model, call)) if t.requires_grad]
    weights = parameters_of(model)
    total = torch.stack([t.sum() for t in outputs]).sum() if outputs else next(iter(weights.values())).sum() * 0
    slopes = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {name: (w * slope).detach() for (name, w), slope in zip(weights.items(), slopes, strict=True)}


def _one(batch: Batch) -> Call:
    """Ones of the shape of one sample; integers, such as tokens, stay."""
    call = batch.call.map(lambda t: t[:1]) if batch.divisible else batch.call
    return call.map(lambda t: torch.ones_like(t) if t.is_floating_point() else t)
