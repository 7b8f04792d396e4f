"""Biases for layers that have none, which take the means that removed nodes leave behind."""

from collections.abc import Mapping
from math import inf
from typing import cast

from torch import Tensor, nn

from mipp.graph.downstream import downstream
from mipp.graph.program import Program
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task


def add_biases(
    models: tuple[nn.Module, nn.Module], layers: Mapping[str, int], program: Program, spare: float
) -> list[str]:
    """Gives zero biases to the layers of both models that have none and no batch norm behind them.

    Args:
        models: The dense and the cut one.
        layers: For the name of a weight the index of its op.
        program: What the dense one does.
        spare: Parameters that may be added.

    Returns:
        A sentence for the report if there were not parameters enough for all.
    """
    without: list[str] = []
    for weight, index in layers.items():
        op = program.ops[index]
        own = f"{op.module}.weight".lstrip(".") == weight and downstream(program, op).norm < 0
        owners = [model.get_submodule(op.module) for model in models]
        if not own or not all(isinstance(o, nn.Linear | nn.modules.conv._ConvNd) and o.bias is None for o in owners):
            continue
        lengths = [o.out_features if isinstance(o, nn.Linear) else cast(int, o.out_channels) for o in owners]
        if lengths[1] > spare:
            without.append(op.module)
            continue
        spare -= lengths[1]
        for owner, length in zip(owners, lengths, strict=True):
            owner.bias = nn.Parameter(cast(Tensor, owner.weight).new_zeros(length))
    return [f"The budget of parameters left none for a bias of {', '.join(without)}."] if without else []


def spare_params(plan: PruningPlan, task: Task) -> float:
    """Parameters that the budget allows besides those that stay."""
    limit = Budget(**plan.budget).limits(task.cost).get("params", inf)
    return limit - task.cost.value("params", task.cost.widths(plan.widths))
