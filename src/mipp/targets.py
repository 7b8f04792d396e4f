"""Which weights are refitted once nodes are gone."""

from collections.abc import Collection
from dataclasses import dataclass, field

from mipp.graph.groups import PruningGraph, Site
from mipp.graph.program import Program
from mipp.plan import PruningPlan


@dataclass
class Target:
    """The uses of one weight: they are refitted together."""

    weight: str
    uses: list[Site] = field(default_factory=list)


def targets_of(plan: PruningPlan, graph: PruningGraph) -> list[Target]:
    """Weights that read removed nodes, or what depends on those that do, in order of their first use."""
    keep = graph.keep_mask(plan.kept)
    by_weight: dict[str, Target] = {}
    for site in graph.sites:
        if site.weight:
            by_weight.setdefault(site.weight, Target(site.weight)).uses.append(site)
    lossy = {site.op for site in graph.sites if (~keep[site.reads[site.reads >= 0]]).any()}
    behind = _behind(graph.program, lossy)

    def wanted(target: Target) -> bool:
        ops = {site.op for site in target.uses}
        return bool(ops & lossy) or (bool(ops & behind) and _unshared(graph.program, target.weight, ops))

    return sorted(filter(wanted, by_weight.values()), key=lambda target: target.uses[0].op)


def _behind(program: Program, lossy: Collection[int]) -> set[int]:
    """Ops that read what depends on the output of lossy ones."""
    changed: set[int] = set()
    behind: set[int] = set()
    for op in program.ops:
        if not changed.isdisjoint(op.inputs):
            behind.add(op.index)
        if op.index in behind or op.index in lossy:
            changed.update(op.outputs)
    return behind


def _unshared(program: Program, weight: str, uses: Collection[int]) -> bool:
    """Whether nothing but these ops reads the weight; an embedding that shares it has run before the refit."""
    readers = (program.readers[index] for index, value in enumerate(program.values) if value.name == weight)
    return all(reader in uses for reading in readers for reader in reading)
