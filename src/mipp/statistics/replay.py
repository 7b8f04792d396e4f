"""A model's activations for all calibration batches, advanced together through its straight-line program."""

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mipp.data.calibration import Batch, name_batch
from mipp.errors import UnsupportedModelError
from mipp.graph.program import Call, Program, execute
from mipp.graph.rules import has_rule
from mipp.graph.trace import trace
from mipp.modules.copies import tensors_by_name, working_copy
from mipp.runtime.tensor_store import Shelf, TensorStore, storage_id

Visit = Callable[[int, dict[int, Tensor]], None]


def replayable(
    model: nn.Module, call: Call, expected: Program, named: Mapping[str, Tensor]
) -> tuple[Program, dict[int, Tensor]]:
    """The program of a model on a call, and what it reads besides the inputs: these tensors by name, and constants.

    Raises:
        UnsupportedModelError: The model cannot be run in pieces, or runs other ops than expected.
    """
    program = trace(model, call, has_rule)
    if program.not_replayable:
        raise UnsupportedModelError(program.not_replayable)
    if program.constants and not _constant(program, trace(model, call.map(lambda t: t.flip(0)), has_rule)):
        raise UnsupportedModelError("the code makes tensors from values outside of torch, others for other samples")
    if [op.name for op in program.ops] != [op.name for op in expected.ops]:
        raise UnsupportedModelError("the model runs other ops on batches of another size")
    bound = {i: named[v.name] for i, v in enumerate(program.values) if v.name in named}
    return program, bound | program.constants


def _constant(first: Program, second: Program) -> bool:
    """True if two passes found the same constants."""
    found = [program.constants.values() for program in (first, second)]
    return len(found[0]) == len(found[1]) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*found, strict=True)
    )


class Stream:
    """The values of every batch that a program still needs, in a store between two steps.

    Args:
        model: Not changed by the stream; its weights may change between two steps, where no op was executed yet.
        batches: Calibration batches.
        expected: The program of the model on one of them.
        store: Where activations are kept.

    Raises:
        UnsupportedModelError: The model cannot be run in pieces, or runs other ops on some batch.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], expected: Program, store: TensorStore) -> None:
        self.batches, self.at = batches, 0
        self._expected = expected
        self._programs: dict[Hashable, tuple[Program, dict[int, Tensor]]] = {}
        self._model = working_copy(model)
        self._named = tensors_by_name(model)
        self._store = store
        self._states: list[_State | None] = [None] * len(batches)  # None: nothing executed, the batch itself
        for batch in batches:  # refused now, before any step has run
            self._trace(batch)

    def program(self, batch: Batch) -> Program:
        """The program on batches of this shape."""
        return self._trace(batch)[0]

    def values(self, index: int, until: int, want: Sequence[int]) -> dict[int, Tensor]:
        """Runs one batch from where the stream is to op `until`, without moving it, and returns the values wanted."""
        batch = self.batches[index]
        program, bound = self._trace(batch)
        env = self._env(index, batch)
        execute(program, env, bound, (self.at, until), want)
        return {v: env[v] if v in env else bound[v] for v in want}

    def advance(self, to: int, want: Sequence[int] = (), until: int = 0, visit: Visit | None = None) -> None:
        """Moves every batch to op `to`; on the way hands the values wanted (made before op `until`) to `visit`."""
        shelf = self._store.shelf()
        for index, batch in enumerate(self.batches):
            program, bound = self._trace(batch)
            env = self._env(index, batch)
            first = min(to, max(until, self.at))
            execute(program, env, bound, (self.at, first), want)
            ahead = env
            if until > to:
                ahead = dict(env)
                execute(program, ahead, bound, (to, until), want)
            if visit is not None:
                visit(index, {v: ahead[v] if v in ahead else bound[v] for v in want})
            execute(program, env, bound, (first, to))
            for value in want:
                if program.last_reads[value] < to:
                    env.pop(value, None)
            self._leave(index)
            self._states[index] = _State(env, bound, shelf)
        self.at = to

    def _env(self, index: int, batch: Batch) -> dict[int, Tensor]:
        state = self._states[index]
        return (
            dict(zip(self.program(batch).inputs, batch.call.tensors, strict=True)) if state is None else state.values()
        )

    def _leave(self, index: int) -> None:
        state = self._states[index]
        if state is not None:
            state.release()

    def _trace(self, batch: Batch) -> tuple[Program, dict[int, Tensor]]:
        key = batch.call.form
        if key not in self._programs:
            with name_batch(batch):
                self._programs[key] = replayable(self._model, batch.call, self._expected, self._named)
        return self._programs[key]


class _State:
    """The values of one batch that later ops read.

    Views of parameters stay views, so that they follow when the parameter is refitted.
    """

    def __init__(self, env: Mapping[int, Tensor], bound: Mapping[int, Tensor], shelf: Shelf) -> None:
        memory = {storage_id(t) for t in bound.values()}
        self._views = {i: t for i, t in env.items() if storage_id(t) in memory}
        self._indices = [i for i in env if i not in self._views]
        self._stored = shelf.put([env[i] for i in self._indices])

    def values(self) -> dict[int, Tensor]:
        """The values by index, in a new dictionary."""
        return {**self._views, **dict(zip(self._indices, self._stored.load(), strict=True))}

    def release(self) -> None:
        """Says that they are no longer needed."""
        self._stored.release()
