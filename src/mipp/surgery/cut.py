"""Cutting: a copy of a model without the nodes that a plan removes."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mipp.errors import PlanMismatchError, clip, quote
from mipp.graph.axes import Ints
from mipp.modules.adapters import adapter_of, layer_sizes, open_layers
from mipp.modules.copies import canonical_names, full_copy, modes_kept, tensors_by_name
from mipp.modules.sizes import set_size, size_at
from mipp.modules.weight_norm import settle
from mipp.modules.wrappers import unwrap
from mipp.plan.plan import PruningPlan, heads, shapes
from mipp.plan.rounds import Axis, positions_to_keep
from mipp.runtime.default_device import own_default_device
from mipp.runtime.mistakes import admit_mistakes
from mipp.runtime.random_states import own_random_states


@admit_mistakes()
@own_default_device()
@own_random_states()
def apply(plan: PruningPlan, model: nn.Module) -> nn.Module:
    """Returns a smaller copy of the model: the plan's removed nodes cut out, the rest as it was, nothing refitted.

    Args:
        plan: A plan made for this model, or one with parameters of the same names and shapes.
        model: Not changed.

    Raises:
        PlanMismatchError: The plan belongs to another model; the first difference is named.
    """
    small = copy_for(plan, model)
    silence(small, {name: np.zeros(1, np.int64) for name in plan.collapsed}, plan)
    keep = _by_tensor(positions_to_keep(plan))
    if keep:
        _replace_tensors(small, lambda name, t: _cut(t, keep[name]) if name in keep else t)
        _update_attributes(small, plan)
    settle(small)
    return small


def copy_for(plan: PruningPlan, model: nn.Module) -> nn.Module:
    """A copy of a model that the plan fits; layers are opened where any that has to be loses something."""
    model = unwrap(model) if isinstance(model, nn.Module) else model
    check(plan, model)
    copied = full_copy(model)
    cut = {s.tensor.rpartition(".")[0] for n, g in plan.groups.items() if len(plan.kept[n]) < g.size for s in g.slices}
    touched = (module for path, module in copied.named_modules() if path in cut)
    return open_layers(copied) if any(adapter_of(module).open for module in touched) else copied


def check(plan: PruningPlan, model: nn.Module) -> None:
    """Raises PlanMismatchError, naming the first difference, if the plan was not made for such a model."""
    if not isinstance(plan, PruningPlan) or not isinstance(model, nn.Module):
        raise PlanMismatchError(
            f"Found a {type(plan).__name__} and a {type(model).__name__}; expected a plan and the model it is for."
        )
    found = shapes(model)
    for name, shape in plan.tensors.items():
        if name not in found:
            raise PlanMismatchError(
                f"The plan is for a model with a tensor '{clip(name)}' of shape {quote(shape)}, but "
                f"{type(model).__name__} has none of that name. Pass the dense model the plan was made for."
            )
        if found[name] != tuple(shape):
            raise PlanMismatchError(
                f"The plan is for a model whose '{clip(name)}' has shape {quote(tuple(shape))}, but here it has "
                f"{found[name]}. Pass the dense model the plan was made for; a pruned model needs a new plan."
            )
    counts = heads(model)
    for path, number in plan.heads.items():
        if counts.get(path) != number:
            raise PlanMismatchError(
                f"The plan is for a model whose '{clip(path)}' has {number} heads, but here it has {counts.get(path)}. "
                "Pass the dense model the plan was made for."
            )
    for name in found:
        if name not in plan.tensors:
            raise PlanMismatchError(
                f"{type(model).__name__} has a tensor '{name}' of shape {found[name]} that the plan does not know. "
                "Pass the dense model the plan was made for."
            )


def _by_tensor(keep: Mapping[Axis, Ints]) -> dict[str, dict[int, Tensor]]:
    """Positions that stay, by tensor and axis."""
    found: dict[str, dict[int, Tensor]] = {}
    for (tensor, axis), positions in keep.items():
        found.setdefault(tensor, {})[axis] = torch.from_numpy(positions)
    return found


@torch.no_grad()
def silence(model: nn.Module, nodes: Mapping[str, Ints], plan: PruningPlan) -> None:
    """Makes every weight that reads the given nodes of a group read zeros instead."""
    tensors = tensors_by_name(model)
    run_over = _run_over(plan)
    for name, silent in nodes.items():
        for s in plan.groups[name].slices if len(silent) else ():
            if s.reads or name in run_over:
                positions = torch.from_numpy(s.positions[silent].ravel())
                tensors[s.tensor].index_fill_(s.axis, positions.to(tensors[s.tensor].device), 0)


def _run_over(plan: PruningPlan) -> set[str]:
    """Collapsed groups that an op runs over: the node that stands in for one must say nothing there either."""
    return {name for r in plan.reductions for name in r.positions if not plan.kept[name]}


def _cut(tensor: Tensor, keep: Mapping[int, Tensor]) -> Tensor:
    layout = torch.channels_last if tensor.ndim == 4 and _is_channels_last(tensor) else torch.contiguous_format
    out = tensor.detach()
    for axis, positions in keep.items():
        out = out.index_select(axis, positions.to(tensor.device))
    return out.contiguous(memory_format=layout)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _replace_tensors(model: nn.Module, change: Callable[[str, Tensor], Tensor]) -> None:
    """Replaces parameters and buffers; what was shared stays shared."""
    names = canonical_names(model)
    made: dict[str, Tensor] = {}
    objects: dict[int, Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for key, old in store.items():
                if old is None:
                    continue
                if id(old) not in objects:
                    name = names[id(old)][0]
                    new = made.setdefault(name, change(name, old))
                    is_new = new is not old and isinstance(old, nn.Parameter)
                    objects[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_new else new
                store[key] = objects[id(old)]  # type: ignore[assignment]


def _update_attributes(model: nn.Module, plan: PruningPlan) -> None:
    """Makes the integer attributes of the standard layers agree with their cut tensors."""
    counts = {name: len(nodes) or 1 for name, nodes in plan.kept.items()}
    sizes = {name: group.size for name, group in plan.groups.items()}
    modules = dict(model.named_modules(remove_duplicate=False))
    for (path, attribute), size in plan.attributes.items():
        dense, value = (
            size.fixed + sum(number * width[group] for group, number in size.per_node.items())
            for width in (sizes, counts)
        )
        found = size_at(modules[path], attribute) if path in modules else None
        if type(found) is not int or found != dense:
            raise PlanMismatchError(
                f"The plan is for a model whose '{clip(path)}' has {clip(attribute)} = {dense}, but here it is "
                f"{quote(found)}. Pass the dense model the plan was made for."
            )
        set_size(modules[path], attribute, value)
    with modes_kept(model):
        for module in model.modules():
            module.training = False  # in train mode spectral norm updates its state when its weight is read
        for module in model.modules():
            for attribute, value in layer_sizes(module).items():
                if getattr(module, attribute, value) != value:
                    setattr(module, attribute, value)
            adapter_of(module).refresh(module)
