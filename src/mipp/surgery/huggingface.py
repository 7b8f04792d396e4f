"""Configurations of Hugging Face models: where all layers of a kind have one width, the stock configuration says it."""

import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from mipp.modules.sizes import other_sizes
from mipp.plan.plan import PruningPlan, shapes

Field = tuple[Any, str]
Shapes = Mapping[str, tuple[int, ...]]
Change = tuple[Any, str, int]


_UNDESCRIBED = (
    "No configuration of {} describes these widths, so stock from_pretrained cannot load what the model's own "
    "save_pretrained writes: use mipp.save_pretrained and mipp.from_pretrained, as `mipp prune hf:... --out` does, or "
    "ask for equal widths with Budget(uniform=True), excluding what then still differs."
)


def update_config(model: nn.Module, plan: PruningPlan) -> list[str]:
    """Makes the `config` of a pruned model describe it, if it can; else returns a sentence for the report.

    Fields that may hold a width are tried until a model built from the configuration has the shapes and sizes of this
    one. Then `save_pretrained` and `from_pretrained` work as for any model.

    Args:
        model: The pruned model; only its configuration is changed.
        plan: What was kept.
    """
    if not hasattr(model, "save_pretrained") or not hasattr(getattr(model, "config", {}), "__dict__"):
        return []
    config, wanted = copy.deepcopy(model.config), shapes(model)
    left = _mismatches(model, config, wanted)
    for before, after in _common_widths(plan):
        best: list[Change] = []
        for fields in _candidates(config, before, plan):
            changes = [(owner, name, getattr(owner, name) * after // before) for owner, name in fields]
            found = _with(model, config, changes, wanted)
            if found < left:
                left, best = found, changes
        _set(best)
    if left and hasattr(config, "per_layer_config"):
        config, left = _vary_by_layer(model, plan, wanted)
    if left:
        return [_UNDESCRIBED.format(type(model).__name__)]
    model.config = config
    return []


def _vary_by_layer(model: Any, plan: PruningPlan, wanted: Shapes) -> tuple[Any, float]:
    """A configuration with fields that differ by layer, and in how much it still differs.

    Few classes read such fields; of those that do not, no model can be built, and the configuration stays as it is.
    """
    found: dict[int, dict[str, int]] = {}
    config = copy.deepcopy(model.config)
    best, left = config, _mismatches(model, config, wanted)
    for name, group in plan.groups.items():
        kept, layer = len(plan.kept[name]), next((int(part) for part in name.split(".") if part.isdecimal()), None)
        if layer is None or not 0 < kept < group.size:
            continue
        fields = [(f, v) for owner, f, v in _integers(config) if owner is config and v % group.size == 0]
        for field, value in fields:
            trial = {**found, layer: {**found.get(layer, {}), field: value * kept // group.size}}
            varied = copy.deepcopy(config)
            try:
                varied.per_layer_config = copy.deepcopy(trial)
            except Exception:  # whatever the class says about a configuration that makes no sense
                continue
            if (number := _mismatches(model, varied, wanted)) < left:
                best, left, found = varied, number, trial
    return best, left


def _common_widths(plan: PruningPlan) -> list[tuple[int, int]]:
    """Widths before and after of groups that lost nodes, where all groups of that width lost as many."""
    pairs = {(group.size, len(plan.kept[name])) for name, group in plan.groups.items()}
    return [(before, after) for before, after in sorted(pairs, reverse=True) if 0 < after < before]


def _candidates(config: Any, before: int, plan: PruningPlan) -> Iterator[Sequence[Field]]:
    """One or two fields that hold a width, or a multiple of it (query heads per head of keys)."""
    shares = {s.positions.shape[1] for g in plan.groups.values() if g.size == before for s in g.slices}
    multiples = {before * n for n in range(1, max(shares) + 1)}
    fields = [(owner, name) for owner, name, value in _integers(config) if value in multiples]
    yield from ([field] for field in fields)
    yield from combinations(fields, 2)


def _integers(config: Any) -> Iterator[tuple[Any, str, int]]:
    for name, value in vars(config).items():
        if type(value) is int and value > 1 and not name.startswith("_"):
            yield config, name, value
        elif hasattr(value, "to_dict") and hasattr(value, "__dict__"):
            yield from _integers(value)


def _with(model: nn.Module, config: Any, changes: Sequence[Change], wanted: Shapes) -> float:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    _set(changes)
    try:
        return _mismatches(model, config, wanted)
    finally:
        _set(before)


def _set(changes: Sequence[Change]) -> None:
    for owner, name, value in changes:
        setattr(owner, name, value)


def _mismatches(model: nn.Module, config: Any, wanted: Shapes) -> float:
    """In how many axes, and sizes that code reads, a model of the configuration differs; infinite if none can be built.

    Without the sizes it could have the same tensors, and heads of another number.
    """
    try:
        with torch.device("meta"):
            built = type(model)(copy.deepcopy(config))
    except Exception:  # whatever the class says about a configuration that makes no sense
        return math.inf
    found, modules = shapes(built), dict(built.named_modules())
    pairs = [(found[name], shape) for name, shape in wanted.items() if len(found.get(name, ())) == len(shape)]
    axes = sum(a != b for pair in pairs for a, b in zip(*pair, strict=True))
    held = [(module, vars(modules[path])) for path, module in model.named_modules() if path in modules]
    read = [_names_read(type(one)) for one, _ in held]  # type: ignore[arg-type]  # a class is hashable
    sizes = [len(other_sizes(vars(one), other).keys() & names) for (one, other), names in zip(held, read, strict=True)]
    return len(wanted) - len(pairs) + axes + sum(sizes)


@cache
def _names_read(kind: type) -> frozenset[str]:
    """Names in the code of a class but that which builds it, and of functions beside it: many sizes are never read."""
    functions = [f for k in kind.__mro__ if k is not nn.Module for name, f in vars(k).items() if name != "__init__"]
    beside = getattr(sys.modules.get(kind.__module__), "__dict__", {}).values()
    codes = [f.__code__ for f in (*functions, *beside) if isinstance(f, FunctionType)]
    names: set[str] = set()
    for code in codes:
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(names)
