"""A model's activations for all calibration batches, advanced together through their straight-line programs."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from mipp.data.calibration import Batch, name_batch
from mipp.errors import UnsupportedModelError
from mipp.graph.nodes import PruningGraph
from mipp.graph.program import StrayedError, execute
from mipp.runtime.tensor_store import Shelf, TensorStore, storage_id
from mipp.statistics.paths import Path, Paths, same_path
from mipp.statistics.strides import turn

Visit = Callable[[int, dict[int, Tensor]], None]
Wish = Callable[[Path], tuple[Sequence[int], int]]
"""For a path: the values wanted, and the index of the first op after those that make them."""


class Stream:
    """The values of every batch that its program still needs, in a store between two steps.

    Places are named by ops of the graph's program; each batch is at the corresponding op of its own.

    Args:
        model: Not changed by the stream; its weights may change between two steps, where no op was executed yet.
        batches: Calibration batches.
        graph: The pruning graph of the model, or of the one that it was cut from.
        store: Where activations are kept.
        beside: The stream of the dense model, for that of a cut one: each batch takes the same path in both.

    Attributes:
        left_out: Why batches are left out, by index; those of both streams.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        graph: PruningGraph,
        store: TensorStore,
        beside: "Stream | None" = None,
    ) -> None:
        self.batches = batches
        self.left_out: dict[int, UnsupportedModelError] = {} if beside is None else beside.left_out
        self._store = store
        self._states: list[_State | None] = [None] * len(batches)  # None: nothing executed, the batch itself
        paths = Paths(model, graph)  # with a copy of the model, which is let go
        self._found = [self._find(index, paths, beside) for index in range(len(batches))]
        self._at = [0] * len(batches)

    def indices(self) -> list[int]:
        """The batches that are not left out."""
        return [index for index in range(len(self.batches)) if index not in self.left_out]

    def path(self, index: int) -> Path:
        """The path of a batch that is not left out."""
        found = self._found[index]
        assert found is not None
        return found

    def values(self, index: int, wish: Wish) -> dict[int, Tensor]:
        """Runs one batch from where it is on, without moving it, and returns the values wanted.

        Raises:
            StrayedError: It takes another path by now.
        """
        path = self.path(index)
        want, until = wish(path)
        env = self._env(index, self.batches[index])
        execute(path.program, env, path.bound, (self._at[index], until), want, moves=False)
        return {v: env[v] if v in env else path.bound[v] for v in want}

    def advance(
        self, to: int | Callable[[Path], int], wish: Wish = lambda _: ((), 0), visit: Visit | None = None
    ) -> None:
        """Moves every batch to op `to`; on the way hands the values wanted to `visit`. One that strays is left out.

        Args:
            to: A place in the graph's program, or for each path one in its own.
        """
        shelf = self._store.shelf()
        for index in self.indices():
            try:
                path = self.path(index)
                self._advance(index, path.start_of(to) if isinstance(to, int) else to(path), wish, visit, shelf)
            except StrayedError as error:
                self.left_out[index] = error

    def visit(self, wish: Wish, visit: Visit, count: int) -> None:
        """Hands the values wanted of the first batches to `visit`, without moving them. One that strays is left out."""
        for index in [index for index in self.indices() if index < count]:
            try:
                visit(index, self.values(index, wish))
            except StrayedError as error:
                self.left_out[index] = error

    def _advance(self, index: int, to: int, wish: Wish, visit: Visit | None, shelf: Shelf) -> None:
        path, at = self.path(index), self._at[index]
        program, bound = path.program, path.bound
        want, until = wish(path)
        env = self._env(index, self.batches[index])
        first = min(to, max(until, at))
        execute(program, env, bound, (at, first), want)
        ahead = env
        if until > to:
            ahead = dict(env)
            execute(program, ahead, bound, (to, until), want, moves=False)
        if visit is not None:
            visit(index, {v: ahead[v] if v in ahead else bound[v] for v in want})
        execute(program, env, bound, (first, to))
        for value in want:
            if program.last_reads[value] < to:
                env.pop(value, None)
        self._leave(index)
        self._states[index], self._at[index] = _State(env, path, shelf), to

    def _env(self, index: int, batch: Batch) -> dict[int, Tensor]:
        state, path = self._states[index], self.path(index)
        if state is not None:
            return state.values()
        tensors = map(turn, batch.call.tensors) if path.may_turn else batch.call.tensors
        return dict(zip(path.program.inputs, tensors, strict=True))

    def _leave(self, index: int) -> None:
        state = self._states[index]
        if state is not None:
            state.release()

    def _find(self, index: int, paths: Paths, beside: "Stream | None") -> Path | None:
        """The path of a batch, known early; None if it is left out."""
        if index in self.left_out:
            return None
        batch = self.batches[index]
        try:
            path = paths.find(batch.call, None if beside is None else beside.path(index))
        except UnsupportedModelError as error:
            if beside is None:
                with name_batch(batch):
                    if error.__cause__ is not None:
                        raise
            cause = error.__cause__
            if cause is not None:  # of a pass that raised
                error = UnsupportedModelError(f"the cut network raised {type(cause).__name__} on it: {cause}")
            self.left_out[index] = error
            return None
        if beside is not None and not same_path(path, beside.path(index)):
            self.left_out[index] = UnsupportedModelError("the cut network takes another path than the dense one")
        return path


class _State:
    """The values of one batch that later ops read.

    Views of parameters stay views, so that they follow when the parameter is refitted.
    """

    def __init__(self, env: Mapping[int, Tensor], path: Path, shelf: Shelf) -> None:
        self._views = {i: t for i, t in env.items() if storage_id(t) in path.memory}
        self._indices = [i for i in env if i not in self._views]
        self._stored = shelf.put([env[i] for i in self._indices])

    def values(self) -> dict[int, Tensor]:
        """The values by index, in a new dictionary."""
        return {**self._views, **dict(zip(self._indices, self._stored.load(), strict=True))}

    def release(self) -> None:
        """Says that they are no longer needed."""
        self._stored.release()
