"""Pruned Hugging Face models as folders that `from_pretrained` reads.

Where a stock configuration has the widths of the model, the folder is an ordinary one. Else it holds the dense
configuration, the shapes that differ from it, and a small modelling file that sets them: with `trust_remote_code=True`
transformers reads it by itself, and `mipp.from_pretrained` without running code of the folder.
"""

import copy
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from mipp.errors import MippError, PlanMismatchError, clip, quote
from mipp.modules.adapters import adapter_of, open_layers
from mipp.modules.sizes import other_sizes
from mipp.plan.plan import shapes
from mipp.runtime.paths import as_path
from mipp.runtime.random_states import own_random_states
from mipp.runtime.requirements import require
from mipp.runtime.typed import FormError, as_type, read_json
from mipp.storage.places import PRUNED_FORM, new_folder

_MODELLING = "modeling_pruned"
_PURPOSE = "A folder of a Hugging Face model"
_FILE = '''"""A pruned {base}: the same code with other widths, which are in config.json under "{key}"."""

import copy

from torch import nn
from transformers import {base}{imports}


class Pruned{base}({base}):
    """Builds the dense model and gives its layers the widths that were kept."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        widths = config.{key}["widths"]
        set_widths(self, widths["shapes"], widths["sizes"]){opening}
        self.tie_weights()


{function}'''

_IMPORTS = "\n\nfrom mipp.modules.adapters import open_layers"
_OPENING = """
        for path in widths["opened"]:  # torch takes the size of a head from the width of the layer
            open_layers(self.get_submodule(path))"""


def set_widths(model: nn.Module, shapes: dict[str, list[int]], sizes: dict[str, dict[str, Any]]) -> None:
    """Gives parameters and buffers new shapes, and modules the sizes that go with them; values are to be loaded.

    Args:
        model: Changed in place.
        shapes: By name of the tensor.
        sizes: Attributes by path of the module.
    """
    for name, shape in shapes.items():
        path, _, key = name.rpartition(".")
        owner = model.get_submodule(path)
        owner._non_persistent_buffers_set.discard(key)  # what the class computes has the width that it had
        old = getattr(owner, key)
        new = old.detach().new_empty(shape)
        if isinstance(old, nn.Parameter):
            setattr(owner, key, nn.Parameter(new, requires_grad=old.requires_grad))
        else:
            setattr(owner, key, new)
    for path, attributes in sizes.items():
        for name, value in attributes.items():
            holder: Any = model.get_submodule(path)
            settings, _, name = name.rpartition(".")
            if settings:  # "config.num_heads": of this module alone, which shares its settings with others
                setattr(holder, settings, copy.copy(getattr(holder, settings)))
                holder = getattr(holder, settings)
            setattr(holder, name, tuple(value) if isinstance(value, list) else value)


@own_random_states()
def save_pretrained(
    model: Any, folder: str | Path, tokenizer: Any = None, add: Callable[[Path], None] = lambda part: None
) -> bool:
    """Writes a pruned Hugging Face model to a new folder.

    Args:
        model: A `PreTrainedModel`, pruned or not.
        folder: Is made.
        tokenizer: Tokenizer, processor or feature extractor to go with it.
        add: Writes more files into the folder that it is given, before that becomes `folder`.

    Returns:
        True where stock `from_pretrained` loads the folder; False where it needs `trust_remote_code=True` (and mipp,
        where heads of an `nn.MultiheadAttention` are gone), or `mipp.from_pretrained`.

    Raises:
        MippError: It is no Hugging Face model, or the folder exists and is not empty.
    """
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise MippError(f"The model is a {type(model).__name__}; expected a model of transformers. Use Result.save.")
    widths = _widths(model)
    base = _base(type(model)).__name__
    with new_folder(folder) as part:
        if widths["shapes"]:  # transformers renames weights in files of its own classes, and in no others
            model.save_pretrained(part, state_dict=_state(model, widths["shapes"]), save_original_format=False)
        else:
            model.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        if widths["shapes"]:
            _note_widths(part / "config.json", model, base, widths)
            opened = {"imports": _IMPORTS, "opening": _OPENING} if widths["opened"] else {"imports": "", "opening": ""}
            text = _FILE.format(base=base, key=PRUNED_FORM, function=inspect.getsource(set_widths), **opened)
            (part / f"{_MODELLING}.py").write_text(text.replace("Any]", "object]"), encoding="utf-8")
        add(part)
    return not widths["shapes"]


@own_random_states()
def from_pretrained(folder: str | Path, **options: Any) -> nn.Module:
    """Loads a folder that `mipp prune hf:... --out` or `save_pretrained` wrote; runs no code of the folder.

    Args:
        folder: The folder.
        options: Passed on to the `from_pretrained` of the class, such as `dtype`.

    Raises:
        MissingRequirementError: transformers is not installed.
        PlanMismatchError: The folder is not of this form.
    """
    folder, transformers = as_path(folder), require("transformers", _PURPOSE)
    try:
        config: _Config = as_type(_Config, read_json(folder / "config.json"))
        noted = config.pruned
        base = _class_of(transformers, noted.base if noted else (config.architectures or ("",))[0])
    except (OSError, FormError) as error:
        raise PlanMismatchError(
            f"{clip(str(folder))} is no folder of a pruned Hugging Face model ({error}); expected one that `mipp prune "
            "hf:... --out` wrote."
        ) from error
    kind = _narrowed(base, noted.widths) if noted else base
    try:
        found, told = kind.from_pretrained(folder, **{**options, "output_loading_info": True})
        if missing := sorted(told["missing_keys"]):
            raise ValueError(f"it lacks '{missing[0]}'")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:  # of a damaged folder
        reason = clip(" ".join(f"{type(error).__name__}: {error}".split()))
        raise PlanMismatchError(
            f"{clip(str(folder))} is no folder of a pruned Hugging Face model that can be loaded ({reason}); it is "
            "damaged, or an option does not fit."
        ) from error
    assert isinstance(found, nn.Module)
    return found


@dataclass(frozen=True)
class _Widths:
    """Shapes of tensors, and sizes of modules, in which a pruned model differs from the one of its configuration.

    Attributes:
        shapes: By name of the tensor.
        sizes: By path of the module, then by attribute.
        opened: Paths of the modules that take their sizes from their weights, as those of torch do not.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int | tuple[int, ...]]] = field(default_factory=dict)
    opened: tuple[str, ...] = ()

    def check(self, model: nn.Module) -> None:
        """Refuses shapes that are no part of those of the dense model, and attributes that are no size in it.

        Raises:
            ValueError: They are not.
        """
        own, modules = shapes(model), dict(model.named_modules())
        for name, shape in self.shapes.items():
            dense = own.get(name, ())
            if len(shape) != len(dense) or not all(0 <= size <= most for size, most in zip(shape, dense, strict=True)):
                raise ValueError(f"'{clip(name)}' cannot have the shape {quote(shape)}")
        for path, sizes in self.sizes.items():
            held = vars(modules[path]) if path in modules else {}
            for name, size in sizes.items():
                settings, _, attribute = name.rpartition(".")
                owner = getattr(held.get(settings), "__dict__", {}) if settings else held
                if type(owner.get(attribute)) is not type(size):
                    raise ValueError(f"'{clip(path)}' has no size '{clip(name)}'")
        for path in self.opened:
            if path not in modules:
                raise ValueError(f"there is no module '{clip(path)}'")


@dataclass(frozen=True)
class _Noted:
    """The origin of a pruned model."""

    base: str
    widths: _Widths


@dataclass(frozen=True)
class _Config:
    """The part of a config.json that says which model it is of."""

    architectures: tuple[str, ...] | None = None
    pruned: _Noted | None = None


def _narrowed(base: Any, widths: _Widths) -> Any:
    """A class that builds the dense model of its configuration and gives its layers the widths that were kept."""

    class Pruned(base):  # type: ignore[misc]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            widths.check(self)
            set_widths(self, {name: list(shape) for name, shape in widths.shapes.items()}, widths.sizes)
            for path in widths.opened:
                open_layers(self.get_submodule(path))
            self.tie_weights()

    Pruned.__name__ = f"Pruned{base.__name__}"
    return Pruned


def _class_of(transformers: Any, name: str) -> Any:
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise FormError(f"transformers has no model {quote(name)}")
    return found


def _base(kind: type) -> type:
    """The class of transformers that a class is or was made from."""
    return next((k for k in kind.__mro__ if k.__module__.startswith("transformers.")), kind)


def _state(model: nn.Module, changed: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors of a model that are saved, with the buffers that its class computes where they have another width."""
    return {**model.state_dict(), **{name: buffer for name, buffer in model.named_buffers() if name in changed}}


def _widths(model: Any) -> dict[str, Any]:
    """Shapes and sizes in which a model differs from the one that its configuration makes."""
    with torch.device("meta"):
        dense = _base(type(model))(copy.deepcopy(model.config))
    expected, own = shapes(dense), shapes(model)
    changed = {name: list(shape) for name, shape in own.items() if expected.get(name) != shape}
    if unknown := sorted(changed.keys() - expected.keys()):
        raise MippError(f"The configuration of {type(model).__name__} makes no '{unknown[0]}'; use Result.save.")
    sizes, opened = {}, []
    for (path, one), (_, other) in zip(model.named_modules(), dense.named_modules(), strict=True):
        if type(one) is not type(other) and adapter_of(other).open:
            opened.append(path)
        differing = other_sizes(vars(one), vars(other))
        if path and hasattr(getattr(one, "config", None), "__dict__"):
            settings = other_sizes(vars(one.config), vars(other.config))
            differing |= {f"config.{name}": value for name, value in settings.items()}
        if differing:
            sizes[path] = differing
    return {"shapes": changed, "sizes": sizes, "opened": opened}


def _note_widths(path: Path, model: Any, base: str, widths: Mapping[str, Any]) -> None:
    config = read_json(path)
    name = f"{_MODELLING}.Pruned{base}"
    config["architectures"] = [f"Pruned{base}"]
    config["auto_map"] = dict.fromkeys(("AutoModel", *_auto_classes(model.config, base)), name)
    config[PRUNED_FORM] = {"base": base, "widths": dict(widths)}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _auto_classes(config: Any, base: str) -> list[str]:
    """Auto classes of transformers that make this class, such as AutoModelForCausalLM."""
    transformers = require("transformers", _PURPOSE)
    found = []
    for name in dir(transformers):
        mapping = getattr(getattr(transformers, name), "_model_mapping", None) if name.startswith("AutoModel") else None
        if mapping is not None and type(config) in mapping:
            made = mapping[type(config)]
            if base in {kind.__name__ for kind in (made if isinstance(made, tuple) else (made,))}:
                found.append(name)
    return found
