"""Attributes of modules that hold the sizes of the code, as `self.num_heads` and `self.config.num_heads` do.

Which of them do is guessed by their values, and proved by a trial cut in which they follow the nodes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from typing import Any

from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.nodes import Counted, Doubt
from mipp.graph.trace import forward
from mipp.modules.copies import working_copy
from mipp.modules.sizes import attributes_of, numbers, size_at

_FEW = 6  # of which three at a time are tried
Reads = Mapping[str, frozenset[str]]
"""Attributes that a pass reads, by path of the module; those of an object that a module holds as "config.name"."""


def remedies(model: nn.Module, doubts: Sequence[Doubt]) -> Iterator[Collection[str]]:
    """Names of attributes that may hold the sizes in doubt: none, all candidates, each by itself, all but one."""
    names = list(dict.fromkeys(name for d in doubts for name in _equal(model, d)))
    yield ()
    if names:
        yield names
    if len(names) > 1:
        yield from ((name,) for name in names)
    if len(names) > 2:
        yield from ([n for n in names if n != name] for name in names)


def further_remedies(model: nn.Module, doubts: Sequence[Doubt], reads: Reads) -> Iterator[Collection[str]]:
    """Names of attributes from which the code may compute the sizes, of those that it reads: one, two, or three.

    Such as heads, where the size is that of all heads; heads that can go, where others stay beside them; and what the
    modules find in a configuration that they share.
    """
    names = list(dict.fromkeys(name for d in doubts for name in _counted(model, d, reads)))
    for number in (1, 2, 3) if len(names) <= _FEW else (1, 2):
        yield from combinations(names, number)


def counted(
    model: nn.Module, doubts: Sequence[Doubt], names: Collection[str], reads: Reads | None = None
) -> dict[tuple[str, str], Counted]:
    """The attributes among `names` by module and name, each with the way it counts a size in doubt."""
    found: dict[tuple[str, str], Counted] = {}
    for d in doubts:
        own = dict.fromkeys(_equal(model, d), Counted(d.number)) if reads is None else _counted(model, d, reads)
        found |= {(d.module, name): how for name, how in own.items() if name in names}
    return found


def attributes_read(model: nn.Module, call: Call) -> Reads:
    """The attributes that modules, and what holds their settings, are asked for in a pass."""
    copied = working_copy(model)
    with _noting(copied) as noted, suppress(UnsupportedModelError):
        forward(copied, call)
    found: dict[str, frozenset[str]] = {}
    for path, module in copied.named_modules():
        own = noted.get(id(module), set())
        settings = (f"{n}.{m}" for n, v in vars(module).items() if n in own for m in noted.get(id(v), ()))
        found[path] = frozenset([*own, *settings])
    return found


@contextmanager
def _noting(model: nn.Module) -> Iterator[dict[int, set[str]]]:
    """Notes by `id` which attributes are asked for, of modules and of plain objects that they hold."""
    noted: dict[int, set[str]] = {}
    changed: dict[int, tuple[Any, type]] = {}
    for module in model.modules():
        for one in (module, *(v for v in vars(module).values() if _is_plain(v))):
            kind = type(one)
            if id(one) not in changed:
                try:
                    object.__setattr__(one, "__class__", _watch(kind, noted))  # frozen ones refuse their own
                    changed[id(one)] = one, kind
                except Exception:  # classes not of Python, enumerations, and others of their own kind: all may be read
                    noted[id(one)] = set(vars(one))
    try:
        yield noted
    finally:
        for one, kind in changed.values():
            object.__setattr__(one, "__class__", kind)


def _watch(kind: Any, noted: dict[int, set[str]]) -> type:
    def read(self: Any, name: str) -> Any:
        noted.setdefault(id(self), set()).add(name)
        return kind.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})


def _is_plain(value: Any) -> bool:
    """True for an object that only holds values, as a configuration does."""
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, nn.Module | Tensor | type)


def _equal(model: nn.Module, doubt: Doubt) -> Iterator[str]:
    """Integers of the doubt's module, and entries of its tuples and dicts, that have the size in doubt."""
    values = attributes_of(model.get_submodule(doubt.module))
    yield from (path for path, number in numbers(values) if number == doubt.size)


def _counted(model: nn.Module, doubt: Doubt, reads: Reads) -> dict[str, Counted]:
    """Integers that the doubt's module reads from which its size may be computed, each with how it counts.

    Of tuples and dicts in its settings, only entries that have the size.
    """
    module = model.get_submodule(doubt.module)
    values = {name: size_at(module, name) for name in sorted(reads.get(doubt.module, ())) if not _is_special(name)}
    found = {path: Counted(doubt.number) for path, number in numbers(values) if number == doubt.size and "." in path}
    for name, value in values.items():
        if type(value) is int and value > 1 and (how := _count(value, doubt)) is not None:
            found[name] = how
    return found


def _is_special(name: str) -> bool:
    """True for names of Python's own, such as "__dict__", also behind a dot."""
    return name.rpartition(".")[2].startswith("__")


def _count(value: int, doubt: Doubt) -> Counted | None:
    """The way a number counts the positions of a doubt: all, those that can go, or units; None if it does not."""
    fixed, per_node = doubt.count.fixed, doubt.count.per_node.values()
    if value == doubt.size:
        return Counted(doubt.number)
    if fixed and value == doubt.size - fixed:
        return Counted(doubt.number, removable=True)
    unit, rest = divmod(doubt.size, value)
    whole = not rest and not fixed % unit and not any(n % unit for n in per_node)
    return Counted(doubt.number, unit) if whole else None
