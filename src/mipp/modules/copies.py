"""Copies of models, and what their tensors are called."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mipp.errors import MippError, UnsupportedModelError
from mipp.modules.adapters import open_layers
from mipp.runtime.mistakes import reraise_own


def working_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode to run passes on: whatever `forward` does to it, the model stays as it is."""
    copied = open_layers(full_copy(model))
    copied.eval()  # a statement of its own: an overridden train() may return nothing
    return copied


def full_copy(model: nn.Module) -> nn.Module:
    """A deep copy, also of models that hold non-leaf tensors; parameters that share memory share it in the copy too."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        memo.update(
            {id(v): v.detach().clone() for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf}
        )
    memo.update(_find_tied_copies(model))
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        reraise_own(error)
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be copied (copy.deepcopy raised {type(error).__name__}: {error}); "
            "pruning works on a copy, so remove what cannot be copied (open files, locks, live handles) from the model."
        ) from error


def _find_tied_copies(model: nn.Module) -> dict[int, nn.Parameter]:
    """Copies of parameters that are different objects over the same memory, by `id`."""
    first: dict[str, nn.Parameter] = {}
    copies: dict[int, nn.Parameter] = {}
    names = canonical_names(model)
    for parameter in model.parameters():
        name = names[id(parameter)][0]
        if name not in first:
            first[name] = parameter
            continue
        origin = copies.setdefault(id(first[name]), copy.deepcopy(first[name]))
        copies[id(parameter)] = nn.Parameter(origin.detach(), requires_grad=parameter.requires_grad)
    return copies


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, as they are, and what else a `state_dict` holds; not copied.

    Overridden ways of saving do not change what the model itself holds.
    """
    found = {name: value for name, value in nn.Module.state_dict(model).items() if isinstance(value, Tensor)}
    return found | {name: tensor.detach() for name, tensor in _tensors_to_save(model).items()}


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives a model, in place, the values of parameters and buffers by name; what is not named keeps its own.

    They are copied as they are: an overridden way of loading, which may convert what earlier versions saved,
    gets only what no parameter or buffer holds.

    Raises:
        MippError: A value has another shape than the tensor of its name.
    """
    held = _tensors_to_save(model)
    if others := {name: value for name, value in state.items() if name not in held}:
        whole = nn.Module.state_dict(model)  # with the versions of the modules, which overridden loading asks for
        whole.update(others)
        nn.Module.load_state_dict(model, whole, strict=False)
    with torch.no_grad():
        for name in held.keys() & state.keys():
            if held[name].shape != state[name].shape:
                raise MippError(
                    f"'{name}' has shape {tuple(state[name].shape)} in the weights and {tuple(held[name].shape)} in "
                    f"the {type(model).__name__}; expected weights of a network with the same widths."
                )
            held[name].copy_(state[name])


def _tensors_to_save(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by each of their names."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        held = {**module._parameters, **module._buffers}
        for name, tensor in held.items():
            if tensor is not None and name not in module._non_persistent_buffers_set:
                found[f"{path}.{name}".lstrip(".")] = tensor
    return found


def cast(model: nn.Module, wanted: Callable[[str, Tensor], torch.dtype]) -> None:
    """Gives every parameter and buffer, in place, the type wanted for its name and values."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tensor.data = tensor.data.to(wanted(name, tensor))  # in place: other objects hold this tensor


def move(model: nn.Module, device: torch.device) -> None:
    """Moves a model, in place; tensors that shared memory share it there, too."""
    names, before = canonical_names(model), tensors_by_name(model)
    model.to(device)
    after = tensors_by_name(model)
    for name, tensor in before.items():
        first = names[id(tensor)][0]
        if after[name] is not after[first]:
            after[name].data = after[first].data


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by each of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Gives every module its training mode back after the block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def canonical_names(model: nn.Module) -> dict[int, tuple[str, str]]:
    """Maps `id` of every parameter and buffer to its name and origin; tensors over the same memory share one name."""
    names: dict[Any, tuple[str, str]] = {}
    by_id: dict[int, tuple[str, str]] = {}
    for origin, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            memory = (tensor.data_ptr(), tensor.shape, tensor.stride()) if has_memory(tensor) else id(tensor)
            by_id[id(tensor)] = names.setdefault(memory, (name, origin))
    return by_id


def holds_numbers(tensor: Tensor, *, hides: bool) -> bool:
    """True if all is finite; tensors that may hide positions, such as masks, may also hold minus infinity."""
    values = tensor.detach()
    if not tensor.is_floating_point() or all_finite(values):
        return True
    return hides and bool((torch.isfinite(values) | values.isneginf()).all())


def all_finite(tensor: Tensor) -> bool:
    """True if no number is infinite or NaN: the smallest and the largest tell, to which NaN is both."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


def has_memory(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and tensor.numel() > 0
