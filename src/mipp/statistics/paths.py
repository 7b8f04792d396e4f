"""The program of each batch: the graph's is that of the first, and others may take another path through the code."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.nodes import PruningGraph, Site
from mipp.graph.program import Op, Program, follows
from mipp.graph.trace import trace
from mipp.graph.uses import match, norm_behind
from mipp.modules.copies import tensors_by_name, working_copy
from mipp.runtime.tensor_store import storage_id
from mipp.statistics.strides import may_turn


@dataclass(frozen=True, eq=False)
class Path:
    """The program of a batch.

    Attributes:
        program: The ops, in order.
        bound: What they read besides the inputs, by index of the value.
        sites: Index in the graph's program of each op that is one of its sites, by index of the op.
        is_expected: True if the ops are those of the graph's program.
    """

    program: Program
    bound: Mapping[int, Tensor]
    sites: Mapping[int, int]
    is_expected: bool

    @cached_property
    def memory(self) -> frozenset[int]:
        """The memory of what the ops read besides the inputs, as `storage_id` numbers it."""
        return frozenset(map(storage_id, self.bound.values()))

    @cached_property
    def may_turn(self) -> bool:
        """True if inputs that are images may have their channels last in memory."""
        return may_turn(self.program)

    def start_of(self, place: int) -> int:
        """The place that corresponds to one in the graph's program: no site that comes after that is before it."""
        if self.is_expected:
            return place
        behind = (self.program.start_of(own) for own, there in self.sites.items() if there >= place)
        return min(behind, default=len(self.program.ops))

    def uses(self, site: Site) -> list[Op]:
        """The ops that are this site: none where the path leaves it out, several where a layer takes more turns."""
        return [self.program.ops[own] for own, there in self.sites.items() if there == site.op]


class Paths:
    """The paths that a model takes: one for calls of a form, or several where the code branches on values.

    Args:
        model: Its weights are read by name; a copy of it is traced.
        graph: Its pruning graph, or that of the model it was cut from.
    """

    def __init__(self, model: nn.Module, graph: PruningGraph) -> None:
        self._model, self._graph = working_copy(model), graph
        self._named = tensors_by_name(model)
        self._known: dict[Hashable, list[Path]] = {}

    def find(self, call: Call, beside: Path | None = None) -> Path:
        """The path of a call.

        Args:
            call: The call.
            beside: Its path in the model that this one was cut from; constants that are the same there were checked.

        Raises:
            UnsupportedModelError: The call raised, or it cannot be run op by op.
        """
        known = self._known.setdefault(call.form, [])
        for path in known:
            if follows(path.program, call.tensors, path.bound):
                return path
        known.append(self._trace(call, beside))
        return known[-1]

    def _trace(self, call: Call, beside: Path | None) -> Path:
        program = trace(self._model, call)
        if program.not_replayable:
            raise UnsupportedModelError(program.not_replayable)
        checked = not program.constants or (beside is not None and _constant(program, beside.program))
        if not checked and not _constant(program, trace(self._model, call.map(lambda t: t.flip(0)))):
            raise UnsupportedModelError("the code makes tensors from values outside of torch, others for other samples")
        bound = {i: self._named[v.name] for i, v in enumerate(program.values) if v.name in self._named}
        expected = self._graph.program
        sites = match(expected, program, {site.op for site in self._graph.sites})
        for own, there in sites.items():
            if norm_behind(program, program.ops[own]) != norm_behind(expected, expected.ops[there]):
                raise UnsupportedModelError(
                    f"the output of '{program.ops[own].module}' takes another way through batch norms than in the first"
                )
        constants = {index: tensor.clone() for index, tensor in program.constants.items()}  # fit for gradients
        return Path(program, bound | constants, sites, program.signature == expected.signature)


def _constant(first: Program, second: Program) -> bool:
    """True if two passes found the same constants."""
    found = [program.constants.values() for program in (first, second)]
    return len(found[0]) == len(found[1]) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*found, strict=True)
    )


def same_path(one: Path, other: Path) -> bool:
    """True if two models, such as a dense and a cut one, run the same ops."""
    return one.program is other.program or one.program.signature == other.program.signature
