"""A pruning method of your own in fifteen lines; budgets, refit and reports come with it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import mipp
from mipp.graph.nodes import NodeGroup
from mipp.methods.base import OneShot
from mipp.plan.task import Task


@dataclass(frozen=True)
class LargestWeight(OneShot):
    """Scores a node by the largest weight that produces it."""

    def rank(self, task: Task) -> dict[str, Tensor]:
        tensors = dict(task.model.named_parameters())
        return {name: self.score(group, tensors) for name, group in task.graph.groups.items()}

    def score(self, group: NodeGroup, tensors: dict[str, Tensor]) -> Tensor:
        score = torch.zeros(group.size)
        for part in group.slices:
            if not part.reads and tensors[part.tensor].ndim > 1:
                rows = tensors[part.tensor].detach().abs().movedim(part.axis, 0).flatten(1).amax(1)
                score = torch.maximum(score, rows[torch.from_numpy(part.positions)].amax(1))
        return score


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
batches = [torch.randn(256, 20) for _ in range(4)]
for method in (LargestWeight(), mipp.methods.MIPP()):
    result = mipp.prune(model, batches, mipp.Budget(macs=0.5), method, progress=False)
    with torch.no_grad():
        error = (result.model(batches[0]) - model(batches[0])).square().mean() / model(batches[0]).var()
    print(f"{type(method).__name__}: {100 * error:.2f} % of the output's variance is lost")
