"""Second-order structured pruning.

Source: Nonnenmacher et al., SOSP: Efficiently Capturing Global Correlations by Second-Order Structured Pruning, ICLR
2022, arXiv 2110.11395.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn

from mipp.data.calibration import Batch
from mipp.graph.trees import map_tensors, tensors_in
from mipp.methods.base import Needs, OneShot, Scope, require_target, select_by
from mipp.methods.common.gradients import (
    call_with_gradients,
    derivatives,
    differentiable,
    gradient,
    hessian_product,
    loss_of_output,
    parameters_of,
)
from mipp.methods.common.slices import sum_by_node
from mipp.plan.budget import Budget
from mipp.plan.elimination import Elimination
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings


@dataclass(frozen=True)
class SOSPH(OneShot):
    """Keeps the nodes whose removal changes the loss most to second order, all correlations in one Hessian product.

    |w_s·g| + ½ |w_s·H w|, where w_s are the weights that produce node s and w those of all nodes (SOSP-H).

    Attributes:
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(
        labels=True, gradients=True, passes="3 backward", memory="the graph of one batch's gradient", stage="trained"
    )

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        model = differentiable(task.model)
        weights = parameters_of(model)
        slopes, product = gradient(task, model), hessian_product(task, model, _producing(task, weights))
        first = _along(task, {n: w * slopes[n] for n, w in weights.items()})
        second = _along(task, {n: w * product[n] for n, w in weights.items()})
        return {name: first[name].abs() + 0.5 * second[name].abs() for name in first}


@dataclass(frozen=True)
class SOSPI:
    """Removes nodes greedily by the second-order change of the loss, with every pair of nodes (SOSP-I).

    The Hessian is Gauss-Newton's: w_s·H w_t is the mean over samples of φ_s·R φ_t, where φ_s is the derivative of the
    outputs along w_s and R the Hessian of the loss by the outputs.

    Attributes:
        samples: How many samples enter the Hessian; each costs one backward pass per output.
    """

    samples: int = 64
    needs: ClassVar[Needs] = Needs(
        labels=True,
        gradients=True,
        passes="1 backward, and 1 per output for 64 samples",
        memory="a matrix of nodes x nodes",
        stage="trained",
    )

    def __post_init__(self) -> None:
        check_settings(self, samples="[1, inf)")

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Removes the nodes that change the loss least until the budget holds."""
        require_target(self, budget)
        model = differentiable(task.model)
        weights = parameters_of(model)
        slopes = gradient(task, model)
        first = torch.cat(list(_along(task, {n: w * slopes[n] for n, w in weights.items()}).values()))
        samples = _singles(task, self.samples)
        pairs = torch.zeros(len(first), len(first), dtype=torch.float64)
        for sample in task.progress(samples, "pairs of nodes"):
            pairs += _pairs(task, model, sample) / len(samples)
        removals = _greedy(first.abs(), pairs)
        return task.plan(select_by(task, _by_group(task, removals), budget), self, budget)


def _producing(task: Task, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that produce nodes; zero elsewhere."""
    found = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in weights.items()}
    for group in task.graph.groups.values():
        for s in group.slices:
            if not s.reads and s.tensor in weights:
                rows = torch.from_numpy(s.positions).flatten().to(found[s.tensor].device)
                values = weights[s.tensor].detach().index_select(s.axis, rows)
                found[s.tensor].index_copy_(s.axis, rows, values)
    return found


def _along(task: Task, products: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of weight times derivative over the weights that produce each node, shape [size]."""
    groups = task.graph.groups.items()
    return {name: sum_by_node(group, products, lambda part: part.sum(1), reads=False) for name, group in groups}


def _singles(task: Task, samples: int) -> list[Batch]:
    """The first samples, one by one; batches that cannot be cut stay whole."""
    found: list[Batch] = []
    for batch in task.batches:
        labels = tensors_in(batch.labels)
        whole = not batch.divisible or any(t.ndim == 0 or t.shape[0] != batch.samples for t in labels)
        found += [batch] if whole else [_row(batch, i) for i in range(min(batch.samples, samples - len(found)))]
        if len(found) >= samples:
            break
    return found


def _row(batch: Batch, index: int) -> Batch:
    def cut(tensor: Tensor) -> Tensor:
        return tensor[index : index + 1]

    return Batch(batch.call.map(cut), 1, map_tensors(batch.labels, cut))


def _pairs(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """φ R φᵀ of one batch, shape [nodes, nodes]."""
    weights = parameters_of(model)
    output = call_with_gradients(model, batch.call)
    values = [t for t in tensors_in(output) if t.requires_grad]
    sizes = [t.numel() for t in values]

    def loss_of(flat: Tensor) -> Tensor:
        new = iter(p.view_as(t) for p, t in zip(flat.split(sizes), values, strict=True))
        return loss_of_output(task, map_tensors(output, lambda t: next(new) if t.requires_grad else t), batch)

    outputs = torch.cat([t.flatten() for t in values])
    curvature: Tensor = torch.autograd.functional.hessian(loss_of, outputs.detach()).double().cpu()
    rows = []
    for value in outputs:
        slopes = derivatives(value, weights, keep_graph=True)
        rows.append(torch.cat(list(_along(task, {n: w * slopes[n] for n, w in weights.items()}).values())))
    phi = torch.stack(rows)
    return phi.mT @ curvature @ phi


def _greedy(first: Tensor, pairs: Tensor) -> list[tuple[int, float]]:
    """Nodes in the order of removal, each with what its removal adds to the objective."""
    pairs = pairs.abs()
    cost = first + 0.5 * pairs.diagonal()
    removals = []
    for _ in range(len(first)):
        node = int(cost.argmin())
        removals.append((node, float(cost[node])))
        cost += pairs[node]
        cost[node] = torch.inf
    return removals


def _by_group(task: Task, removals: Sequence[tuple[int, float]]) -> dict[str, Elimination]:
    found = {}
    for name, group in task.graph.groups.items():
        own = [(n - group.first_node, loss) for n, loss in removals if 0 <= n - group.first_node < group.size]
        found[name] = Elimination(tuple(n for n, _ in own), (0.0, *accumulate(loss for _, loss in own)))
    return found
