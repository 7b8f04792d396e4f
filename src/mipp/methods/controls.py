"""Controls: what is left when the weights that a method kept are drawn anew.

Sources: Frankle et al., Pruning Neural Networks at Initialization: Why are We Missing the Mark?, ICLR 2021, arXiv
2009.08576; Liu et al., Rethinking the Value of Network Pruning, ICLR 2019, arXiv 1810.05270.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mipp.methods.base import Method, Needs, require_target, select
from mipp.methods.common.training import train
from mipp.modules.copies import full_copy, state_of
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.random_states import own_random_states
from mipp.runtime.settings import required_parameters
from mipp.surgery.cut import apply


@dataclass(frozen=True)
class Reinitialised:
    """Keeps what another method keeps (by default random nodes) and draws all weights anew.

    Attributes:
        like: The other method.
    """

    like: Method | None = None
    needs: ClassVar[Needs] = Needs(
        data=False,
        passes="the other method's",
        memory="the other method's",
        stage="initialisation",
        widths="equal",
        reweights=True,
    )

    def plan(self, task: Task, budget: Budget) -> tuple[PruningPlan, dict[str, Tensor]]:
        """Returns the plan of the other method and new weights of the whole network."""
        kept = _choose(self, self.like, task, budget)
        return task.plan(kept, self, budget), state_of(_reinitialise(task))


@dataclass(frozen=True)
class Scratch:
    """Keeps what another method keeps (by default random nodes), draws all weights anew and trains what is left.

    Attributes:
        like: The other method.
    """

    like: Method | None = None
    needs: ClassVar[Needs] = Needs(
        data=False,
        gradients=True,
        training=True,
        passes="1 training",
        memory="the optimiser's",
        stage="initialisation",
        widths="equal",
        reweights=True,
    )

    def plan(self, task: Task, budget: Budget) -> tuple[PruningPlan, dict[str, Tensor]]:
        """Returns the plan of the other method and trained weights, those of removed nodes untrained."""
        plan = task.plan(_choose(self, self.like, task, budget), self, budget)
        model = _reinitialise(task)
        small = apply(plan, model)
        train(task, small, 1.0)
        return plan, _put_back(plan, model, small)


def _choose(method: object, like: Method | None, task: Task, budget: Budget) -> Mapping[str, tuple[int, ...]]:
    if like is None:
        require_target(method, budget)
        generator = task.generator()
        draws = {name: torch.rand(g.size, generator=generator) for name, g in task.graph.groups.items()}
        return select(task, draws, budget, "local")
    made = like.plan(task, budget)
    return (made[0] if isinstance(made, tuple) else made).kept


def _reinitialise(task: Task) -> nn.Module:
    """A copy with the weights its layers would begin with; layers that cannot say have theirs shuffled."""
    model = full_copy(task.model)
    # not the seed itself: the model may have been initialised with it, and would come out as it was
    with own_random_states(int(torch.randint(2**62, (), generator=task.generator()))):
        for module in model.modules():
            _draw(module)
    return model


@torch.no_grad()
def _draw(module: nn.Module) -> None:
    """Draws the weights of a layer as it does at first, and shuffles those that this leaves as they were."""
    before = [p.clone() for p in module.parameters(recurse=False)]
    reset = getattr(module, "reset_parameters", None)
    if callable(reset) and not required_parameters(reset):
        reset()
    for parameter, old in zip(module.parameters(recurse=False), before, strict=True):
        flat = old.flatten()
        if torch.equal(parameter, old) and not torch.equal(flat, flat[:1].expand_as(flat)):
            parameter.copy_(flat[torch.randperm(len(flat), device=flat.device)].view_as(old))


def _put_back(plan: PruningPlan, model: nn.Module, small: nn.Module) -> dict[str, Tensor]:
    """The state of the model with the tensors of its cut copy in their places."""
    places = state_of(apply(plan, _number(model)))
    state = {name: tensor.clone() for name, tensor in state_of(model).items()}
    for name, tensor in state_of(small).items():
        if tensor.shape == state[name].shape:
            state[name] = tensor.clone()
        elif tensor.is_floating_point():
            place, flat = places[name].long().flatten() - 1, state[name].flatten()
            flat[place[place >= 0]] = tensor.flatten()[place >= 0]
            state[name] = flat.view_as(state[name])
    return state


@torch.no_grad()
def _number(model: nn.Module) -> nn.Module:
    """A copy in float64 whose tensors hold the place of every entry, counted from 1 (0: of no node)."""
    numbered = full_copy(model).double()
    for tensor in [*numbered.parameters(), *numbered.buffers()]:
        tensor.copy_(torch.arange(1, tensor.numel() + 1).view_as(tensor))
    return numbered
