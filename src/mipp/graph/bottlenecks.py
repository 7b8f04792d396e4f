"""Ops that nothing goes around: every path from the inputs to the outputs passes them."""

from mipp.graph.nodes import PruningGraph
from mipp.graph.program import Op, Program


def is_chain(graph: PruningGraph) -> bool:
    """True if several groups have readers, and nothing goes around any of these, as in a VGG.

    A residual stream goes around the layers that write to it, a branch around the branches beside it, and the input of
    a step of a recurrent network around what it remembers.
    """
    readers = [sites for group in graph.groups.values() if (sites := graph.readers(group))]
    passed = bottlenecks(graph.program) if len(readers) > 1 else frozenset()
    return len(readers) > 1 and all(site.op in passed for sites in readers for site in sites)


def bottlenecks(program: Program) -> frozenset[int]:
    """Indices of the ops that lie on every path from an input to an output."""
    fed, ops = _on_paths(program)
    last = {value: place for place, op in enumerate(ops) for value in op.inputs if value in fed}
    last.update(dict.fromkeys(program.outputs, len(ops)))
    found, reach = [], _furthest(program.inputs, last)  # the last op that reads what was there before
    for place, op in enumerate(ops):
        if reach <= place:
            found.append(op.index)
        reach = max(reach, _furthest(op.outputs, last))
    return frozenset(found)


def _on_paths(program: Program) -> tuple[set[int], list[Op]]:
    """The values that depend on an input, and the ops between the inputs and the outputs, in order."""
    fed, wanted = set(program.inputs), set(program.outputs)
    reached = []
    for op in program.ops:
        if fed.intersection(op.inputs):
            fed.update(op.outputs)
            reached.append(op)
    leading = []
    for op in reversed(reached):
        if wanted.intersection(op.outputs):
            wanted.update(op.inputs)
            leading.append(op)
    return fed, leading[::-1]


def _furthest(values: tuple[int, ...] | list[int], last: dict[int, int]) -> int:
    return max((last.get(value, -1) for value in values), default=-1)
