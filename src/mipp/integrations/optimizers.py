"""State of optimisers and of averaged weights, cut like the weights they belong to."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

import mipp
from mipp.errors import MippError, quote
from mipp.modules.copies import canonical_names
from mipp.plan.rounds import positions_to_keep


def carry_over(
    optimizer: Optimizer, model: nn.Module, result: mipp.Result, schedulers: Iterable[LRScheduler] = ()
) -> Optimizer:
    """Makes the optimiser of a pruned model from that of the dense one: momentum and moments are cut with the weights.

    A training goes on as if the removed nodes had never been there. A `GradScaler` needs nothing: its scale is of no
    parameter.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> result = mipp.prune(model, [torch.randn(16, 4)], mipp.Budget(nodes=0.5), progress=False)
    >>> optimizer = carry_over(optimizer, model, result)

    Args:
        optimizer: Of the dense model's parameters; not changed.
        model: The model that was pruned.
        result: The result of `prune`, whose model is to be trained.
        schedulers: Of the optimiser; they go on with the new one.

    Returns:
        An optimiser of the same class, with the same groups and settings.

    Raises:
        MippError: The optimiser holds parameters that are not the model's.
    """
    schedulers = (
        list(schedulers) if isinstance(schedulers, Iterable) and not isinstance(schedulers, Tensor) else schedulers
    )
    _check(optimizer, model, result, schedulers)
    own = {id(parameter) for parameter in model.parameters()}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if id(parameter) not in own:
            raise MippError(
                f"The optimiser holds a parameter of shape {list(parameter.shape)} that is not the model's; "
                "expected the optimiser and the model that were trained together."
            )
    groups, state = _cut_all(optimizer, model, result)
    made = type(optimizer)(groups, **_defaults(optimizer))
    made.state.update(state)
    for scheduler in schedulers:
        scheduler.optimizer = made
    return made


def carry_over_in_place(optimizer: Optimizer, model: nn.Module, result: mipp.Result) -> None:
    """Makes an optimiser, in place, that of the pruned model; parameters of other models in it stay as they are.

    Who holds the optimiser (schedulers, a `GradScaler`, a trainer) goes on with it.

    Args:
        optimizer: Changed in place.
        model: The model that was pruned, as it was before.
        result: The result of `prune`, whose parameters are trained from now on.
    """
    _check(optimizer, model, result)
    groups, state = _cut_all(optimizer, model, result)
    optimizer.__setstate__({"param_groups": groups, "state": defaultdict(dict, state)})


def _check(optimizer: object, model: object, result: object, schedulers: object = ()) -> None:
    """Refuses arguments of other types."""
    for given, kind in ((optimizer, Optimizer), (model, nn.Module), (result, mipp.Result)):
        if not isinstance(given, kind):
            raise MippError(f"Found {quote(given)}; expected an optimiser, the dense model and the result of prune.")
    if not isinstance(schedulers, list | tuple) or not all(isinstance(one, LRScheduler) for one in schedulers):
        raise MippError(f"schedulers is {quote(schedulers)}; expected a list of schedulers of the optimiser.")


def _cut_all(
    optimizer: Optimizer, model: nn.Module, result: mipp.Result
) -> tuple[list[dict[str, Any]], dict[Tensor, dict[str, Any]]]:
    """Groups and state of an optimiser, with the parameters of the pruned model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    canonical = canonical_names(model)  # those that plans use
    new = dict(result.model.named_parameters(remove_duplicate=False))
    keep = {axis: torch.from_numpy(places) for axis, places in positions_to_keep(result.plan).items()}
    groups, state = [], {}
    for group in optimizer.param_groups:
        own = [new[names[id(p)]] if id(p) in names else p for p in group["params"]]
        groups.append({**{k: v for k, v in group.items() if k != "param_names"}, "params": own})
        for old, parameter in zip(group["params"], own, strict=True):
            if old in optimizer.state:
                known, name = optimizer.state[old], canonical.get(id(old), ("", ""))[0]
                state[parameter] = {k: _cut(v, old, name, keep) for k, v in known.items()} if name else known
    return groups, state


def carry_over_average(averaged: AveragedModel, result: mipp.Result) -> AveragedModel:
    """Cuts averaged weights (EMA, SWA) of the dense model by the plan: what is returned averages the pruned model.

    Args:
        averaged: Of the model that was pruned; not changed.
        result: The result of `prune`.

    Raises:
        MippError: They are something else.
    """
    if not isinstance(averaged, AveragedModel) or not isinstance(result, mipp.Result):
        raise MippError(
            f"carry_over_average got a {type(averaged).__name__} and a {type(result).__name__}; expected an "
            "AveragedModel and the result of mipp.prune."
        )
    made = copy.copy(averaged)
    made._modules = {**averaged._modules, "module": mipp.apply(result.plan, averaged.module)}
    made._buffers = {name: None if b is None else b.clone() for name, b in averaged._buffers.items()}
    return made


def _defaults(optimizer: Optimizer) -> dict[str, Any]:
    """Arguments of the constructor; the groups bring their own, and these are for groups added later."""
    accepted = type(optimizer).__init__.__code__.co_varnames[: type(optimizer).__init__.__code__.co_argcount]
    flags = type(optimizer).__init__.__kwdefaults__ or {}
    return {k: v for k, v in optimizer.defaults.items() if k in accepted or k in flags}


def _cut(value: Any, old: Tensor, name: str, keep: Mapping[tuple[str, int], Tensor]) -> Any:
    """A state of a parameter for its pruned form: tensors of its shape are cut, others copied."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return copy.deepcopy(value)
    for axis in range(value.ndim):
        if (name, axis) in keep:
            value = value.index_select(axis, keep[name, axis].to(value.device))
    return value.clone()
