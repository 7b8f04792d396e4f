"""A traced forward pass as data: its ops and values; and how to run it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from mipp.errors import UnsupportedModelError
from mipp.graph.trees import leaves
from mipp.runtime.onednn import faster

STRIDELESS = {
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default,
}
"""Twins of ops that need certain strides, for running a program again."""
_AHEAD, _FOLLOWS = "recurrent_states", "states_of_gates"
"""The ops that a recurrent layer begins and ends with: its states are computed first, its gates follow from them."""


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor among the arguments of an op: the index of a `Value`."""

    index: int


@dataclass(frozen=True)
class Value:
    """A tensor of the traced pass.

    Attributes:
        shape: Its shape.
        origin: "input", "parameter", "buffer", "constant" (any other tensor the code holds) or "op".
        name: The qualified name of a parameter or buffer, else "".
        producer: Index of the op that made it, -1 if none did.
        dtype: Its type.
        base: Index of the value whose memory it shares as a view, or as the result of an op that works in place; -1 if
            it has its own.
    """

    shape: tuple[int, ...]
    origin: str
    name: str = ""
    producer: int = -1
    dtype: torch.dtype = torch.float32
    base: int = -1


@dataclass(frozen=True)
class Op:
    """One ATen call. In-place calls are recorded as their functional twins.

    Attributes:
        module: Path of the innermost module whose `forward` made the call, "" for the model itself.
        source: "file.py:12", the innermost line outside torch.
        holder: Path of the module whose method made the call, where that is another one inside of `module`; else "".
    """

    index: int
    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]
    module: str
    source: str
    holder: str = ""

    @cached_property
    def name(self) -> str:
        """The op without namespace and overload, such as `conv2d`."""
        return str(self.func.overloadpacket.__name__)

    @cached_property
    def replayed(self) -> OpOverload:
        """The op that runs it again: itself, or its twin for any strides."""
        return STRIDELESS.get(self.func, self.func)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Arguments by the names of the op's schema, defaults filled in."""
        schema = self.func._schema.arguments
        given = {a.name: value for a, value in zip(schema, self.args, strict=False)}
        return {a.name: given.get(a.name, self.kwargs.get(a.name, a.default_value)) for a in schema}

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the values read, in order of the arguments."""
        return tuple(ref.index for ref in leaves((self.args, tuple(self.kwargs.values())), Ref))

    @cached_property
    def args_again(self) -> tuple[Any, ...]:
        """The arguments that run it again: states are known without the gates that they follow from."""
        return ([], *self.args[1:]) if self.name == _FOLLOWS else self.args

    @cached_property
    def inputs_again(self) -> tuple[int, ...]:
        """Indices of the values that it reads when it is run again."""
        return tuple(ref.index for ref in leaves((self.args_again, tuple(self.kwargs.values())), Ref))

    @property
    def runs_ahead(self) -> bool:
        """True if it computes what later ops tell of: it uses weights as these say, and is no layer itself."""
        return self.name == _AHEAD


@dataclass
class Program:
    """A traced forward pass that can be run again, whole or in pieces, on inputs of the same shapes.

    Attributes:
        guards: What left the tensors for Python, by op: a value, or how many rows were chosen. The program holds for
            inputs that give the same (`follows`).
        not_replayable: Why running the ops again may differ from the model ("" if it does not): an op reads memory that
            was changed in place through another tensor.
    """

    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, Tensor] = field(default_factory=dict)
    guards: dict[int, Any] = field(default_factory=dict)
    not_replayable: str = ""
    _spared: dict[tuple[frozenset[int], bool], frozenset[int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def readers(self) -> list[list[int]]:
        """For every value, the indices of the ops that read it; not those that run ahead with a weight."""
        reading: list[list[int]] = [[] for _ in self.values]
        for op in self.ops:
            weights = {ref.index for ref in op.arguments["weights"]} if op.runs_ahead else ()
            for index in dict.fromkeys(op.inputs):
                if index not in weights:
                    reading[index].append(op.index)
        return reading

    @cached_property
    def starts(self) -> dict[int, int]:
        """For every op of a recurrent layer, the index of the one that runs ahead."""
        found: dict[int, int] = {}
        ahead = -1
        for op in self.ops:
            ahead = op.index if op.runs_ahead else ahead
            if op.name == _FOLLOWS:
                found.update(dict.fromkeys(range(ahead, op.index + 1), ahead))
        return found

    def start_of(self, op: int) -> int:
        """The index of the first op that has to run anew if the weight of a layer changes: itself, or one ahead."""
        return self.starts.get(op, op)

    @cached_property
    def _aside(self) -> frozenset[int]:
        """The ops that lead to nothing but gates of states that are known."""
        found: set[int] = set()
        for op in reversed(self.ops):
            reading = [self.ops[reader] for index in op.outputs for reader in self.readers[index]]
            ends = not op.outputs or not set(op.outputs).isdisjoint(self.outputs)
            if (
                reading
                and not ends
                and all(r.index in found or set(op.outputs).isdisjoint(r.inputs_again) for r in reading)
            ):
                found.add(op.index)
        return frozenset(found)

    def spared(self, keep: Sequence[int], *, moves: bool) -> frozenset[int]:
        """The ops that need not run.

        Args:
            keep: Values that are wanted.
            moves: Whether all that later ops read is wanted, too.
        """
        key = frozenset(keep), moves
        if key not in self._spared:
            wanted, needed = set(keep), set()
            for op in reversed(() if moves and not self._aside else self.ops):
                if not wanted.isdisjoint(op.outputs) or op.index in self.guards:
                    needed.add(op.index)
                    wanted.update(op.inputs_again)
            self._spared[key] = (self._aside if moves else frozenset(range(len(self.ops)))) - needed
        return self._spared[key]

    def before(self, value: int) -> list[Op]:
        """The ops that a value is computed by, the last one first."""
        wanted, found = {value}, []
        for op in reversed(self.ops[: self.values[value].producer + 1]):
            if wanted.intersection(op.outputs):
                wanted.update(op.inputs)
                found.append(op)
        return found

    @cached_property
    def last_reads(self) -> list[int]:
        """For every value, the index of the last op that reads it (outputs of the model: never dropped)."""
        last = [-1] * len(self.values)
        for op in self.ops:
            for index in op.inputs:
                last[index] = op.index
        for index in self.outputs:
            last[index] = len(self.ops)
        return last

    @cached_property
    def drops(self) -> list[list[int]]:
        """For every op, the values that nothing reads after it."""
        last = self.last_reads
        return [[i for i in dict.fromkeys((*op.inputs, *op.outputs)) if last[i] <= op.index] for op in self.ops]

    @cached_property
    def lifetimes(self) -> dict[int, tuple[int, int]]:
        """For every input and result with memory of its own, the first and the last op during which it is held.

        It is held from the op that makes it to the last that reads it or a view of it; an input from the first op on,
        an output of the model to the last.
        """
        spans: dict[int, tuple[int, int]] = {}
        for index, value in enumerate(self.values):
            base = index if value.base < 0 else value.base
            if value.producer not in self._aside and self.values[base].origin in ("input", "op"):
                start, end = spans.get(base, (max(value.producer, 0),) * 2)
                spans[base] = start, max(end, value.producer, min(self.last_reads[index], len(self.ops) - 1))
        return spans

    @cached_property
    def signature(self) -> list[tuple[str, tuple[str, ...]]]:
        """The ops by name, whatever their sizes, each with the names of the model's tensors that it reads."""
        names = [value.name for value in self.values]
        return [(op.name, tuple([names[i] for i in op.inputs if names[i]])) for op in self.ops]

    @cached_property
    def deciding(self) -> list[tuple[Op, list[int]]]:
        """The ops that the guards depend on, in order, each with the values that none of these reads after it."""
        wanted: set[int] = set()
        read: set[int] = set()
        found: list[tuple[Op, list[int]]] = []
        for op in reversed(self.ops):
            if op.index in self.guards or wanted.intersection(op.outputs):
                wanted.update(op.inputs)
                found.append((op, [index for index in (*op.outputs, *op.inputs) if index not in read]))
                read.update(op.inputs)
        return found[::-1]


class StrayedError(UnsupportedModelError):
    """A pass takes another path than the program that was to be run."""


def execute(
    program: Program,
    env: dict[int, Tensor],
    bound: Mapping[int, Tensor],
    span: tuple[int, int],
    keep: Sequence[int] = (),
    *,
    moves: bool = True,
) -> None:
    """Runs ops `span[0]` to `span[1]` (exclusive) of a program.

    Args:
        env: Values by index. Results are added; values that nothing after the span reads are dropped, except `keep`.
        bound: Parameters, buffers and constants by index.
        keep: Values that are wanted.
        moves: Whether the pass goes on from there; otherwise what `keep` does not depend on is left out.
    """
    drops, kept, spared = program.drops, set(keep), program.spared(keep, moves=moves)
    for op in program.ops[span[0] : span[1]]:
        if op.index not in spared and not _run(program, op, env, bound):
            raise StrayedError(
                f"the code at {op.source} reads a value out of a tensor ({op.name}), and another than before"
            )
        for index in drops[op.index]:
            if index not in kept:
                env.pop(index, None)


@torch.no_grad()
def follows(program: Program, inputs: Sequence[Tensor], bound: Mapping[int, Tensor]) -> bool:
    """True if a call on these inputs, of the shapes of the program's, takes its path: the guards see the same."""
    env = dict(zip(program.inputs, inputs, strict=True))
    for op, done in program.deciding:
        if not _run(program, op, env, bound):
            return False
        for index in done:
            env.pop(index, None)
    return True


def _run(program: Program, op: Op, env: dict[int, Tensor], bound: Mapping[int, Tensor]) -> bool:
    """Runs one op; False, and nothing in `env`, where a guard sees something else."""
    run, args = faster(op.replayed, [_map_refs(arg, env, bound) for arg in op.args_again])
    out = run(*args, **{k: _map_refs(v, env, bound) for k, v in op.kwargs.items()})
    if op.index in program.guards and guard(out) != program.guards[op.index]:
        return False
    if isinstance(out, Tensor):
        env[op.outputs[0]] = out
    else:
        env.update(zip(op.outputs, leaves(out, Tensor), strict=True))
    return True


def guard(out: Any) -> Any:
    """The part of a result that Python may have read: a number, or the shapes of tensors."""
    tensors = leaves(out, Tensor)
    return [tuple(t.shape) for t in tensors] if tensors else out


def _map_refs(tree: Any, env: Mapping[int, Tensor], bound: Mapping[int, Tensor]) -> Any:
    if type(tree) is Ref:
        return env[tree.index] if tree.index in env else bound[tree.index]
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map_refs(item, env, bound) for item in tree)
    return tree
