"""Torch-Pruning as a peer: one global ranking down to a budget, and what it kept, as a plan that can be refitted."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mipp
from mipp.errors import MippError
from mipp.graph.groups import NodeGroup
from mipp.plan import PruningPlan

Labelled = Sequence[tuple[Tensor, Tensor]]
_STEPS = 50


def torch_pruning(
    score: str, dense: nn.Module, data: Labelled, budget: mipp.Budget, exclude: Sequence[str] = ()
) -> nn.Module:
    """A smaller copy: 'l1', 'taylor' or 'hessian' scores from labelled images, ranked over all layers, in steps.

    Linear layers stay as they are, which in convolutional networks are the classifier.

    Raises:
        MippError: The budget is out of its reach.
    """
    import torch_pruning as tp

    model = copy.deepcopy(dense)
    scores = {
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "taylor": tp.importance.TaylorImportance,
        "hessian": tp.importance.HessianImportance,
    }
    importance = scores[score]()
    images, labels = data[0]
    whole = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) or name in exclude]
    pruner = tp.BasePruner(
        model, images[:2], importance, global_pruning=True, pruning_ratio=0.95, iterative_steps=_STEPS,
        ignored_layers=whole,
    )  # fmt: skip

    def sizes() -> tuple[float, float]:
        macs, params = tp.utils.count_ops_and_params(model, images[:1])
        return macs, params

    before = sizes()
    for _ in range(_STEPS + 1):
        if all(
            limit is None or now <= limit * full
            for limit, now, full in zip((budget.macs, budget.params), sizes(), before, strict=True)
        ):
            model.zero_grad()
            return model
        if score == "taylor":
            model.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
        elif score == "hessian":
            _accumulate(importance, model, images[:16], labels[:16])
        pruner.step()
    raise MippError(f"Torch-Pruning did not come down to {budget} in {_STEPS} steps.")


def _accumulate(importance: Any, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Squared gradients of single samples, as its Hessian importance takes them."""
    importance.zero_grad()
    for loss in nn.functional.cross_entropy(model(images), labels, reduction="none"):
        model.zero_grad()
        loss.backward(retain_graph=True)
        importance.accumulate_grad(model)


def plan_of(dense: nn.Module, small: nn.Module, example: Tensor, exclude: Sequence[str] = ()) -> PruningPlan:
    """Which nodes of a dense network a smaller copy kept, read off its biases and batch norms."""
    graph = mipp.inspect(dense, example, exclude).graph
    kept = {name: _kept(dense.state_dict(), small.state_dict(), group) for name, group in graph.groups.items()}
    return PruningPlan.of(graph, dense, kept)


def _kept(dense: dict[str, Tensor], small: dict[str, Tensor], group: NodeGroup) -> list[int]:
    """Nodes whose values in all vectors of the group are found in the smaller network."""
    vectors = [
        s.tensor
        for s in group.slices
        if dense[s.tensor].ndim == 1 and np.array_equal(s.positions[:, 0], range(group.size))
    ]
    vectors = list(dict.fromkeys(name for name in vectors if dense[name].numel() == group.size))
    here, there = (torch.stack([state[name] for name in vectors], 1) for state in (dense, small))
    same = (here[:, None] == there[None]).all(2).any(1)
    kept = torch.nonzero(same).flatten().tolist()
    assert len(kept) == len(there), f"{group.name}: {len(kept)} of {len(there)} nodes were recognised"
    return kept
