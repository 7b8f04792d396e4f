"""A model that takes over, in place, the tensors and sizes of another one of the same code."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mipp.errors import MippError
from mipp.modules.adapters import adapter_of
from mipp.modules.sizes import take_size


def adopt(model: nn.Module, other: nn.Module, attributes: Iterable[tuple[str, str]] = ()) -> None:
    """Gives a model the parameters and buffers of another one, and the sizes that go with them, in place.

    Its modules stay the objects that they are, with their hooks: whoever holds them goes on with the new widths. The
    tensors are those of `other` themselves, which is of no use afterwards.

    Args:
        model: Changed in place.
        other: A smaller form of it: the same modules, of other widths.
        attributes: Modules and their attributes that hold sizes, as `PruningPlan.attributes` has them; the attribute of
            what holds a module's settings stands behind a dot.

    Raises:
        MippError: The two are built of different modules.
    """
    own, new = dict(model.named_modules()), dict(other.named_modules())
    if own.keys() != new.keys():
        differing = min(own.keys() ^ new.keys())
        raise MippError(
            f"Only one of two models has a module '{differing}'; expected a {type(model).__name__} and its pruned form."
        )
    for path, module in own.items():
        twin = new[path]
        module.__class__ = type(twin)  # layers that take sizes from elsewhere than their weights were opened
        module._parameters.update(twin._parameters)
        module._buffers.update(twin._buffers)
        for name, value in vars(twin).items():
            if isinstance(value, Tensor) or (_is_size(value) and module.__dict__.get(name) != value):
                module.__dict__[name] = value
        adapter_of(module).refresh(module)
    for path, attribute in attributes:
        take_size(own[path], new[path], attribute)
    if hasattr(other, "save_pretrained") and hasattr(other, "config"):  # of Hugging Face: it may tell the widths
        model.config = other.config


def _is_size(value: Any) -> bool:
    entries = value if isinstance(value, tuple | list) else [value]
    return bool(entries) and all(type(entry) is int for entry in entries)
