"""The weights that are refitted after nodes are removed."""

from collections.abc import Collection
from dataclasses import dataclass, field

from mipp.graph.nodes import PruningGraph, Site
from mipp.graph.program import Program
from mipp.plan.plan import PruningPlan


@dataclass
class Target:
    """The uses of one weight: they are refitted together."""

    weight: str
    uses: list[Site] = field(default_factory=list)


def targets_of(plan: PruningPlan, graph: PruningGraph) -> list[Target]:
    """Weights that read removed nodes, or what depends on those that do, in order of their first use.

    One that something else reads as well, such as its transpose, would change there unfitted: it stays. Of those that
    an embedding shares, the ones that read removed nodes are refitted all the same: they lose more than it does.
    """
    by_weight: dict[str, Target] = {}
    for site in graph.sites:
        if site.weight:
            by_weight.setdefault(site.weight, Target(site.weight)).uses.append(site)
    lossy = _lossy(plan, graph)
    behind = _behind(graph.program, lossy)

    def is_wanted(target: Target) -> bool:
        ops = {site.op for site in target.uses}
        embedding = {op.index for op in graph.program.ops if ops & lossy and op.name == "embedding"}
        touched = bool(ops & (lossy | behind)) and not _complex(graph.program, target.weight)
        return touched and _reads_alone(graph.program, target.weight, ops | embedding)

    return sorted(filter(is_wanted, by_weight.values()), key=lambda target: target.uses[0].op)


def names_left_as_cut(plan: PruningPlan, graph: PruningGraph, targets: Collection[Target]) -> list[str]:
    """Names of the modules that read removed nodes by weights which are not refitted."""
    refitted = {site.op for target in targets for site in target.uses}
    return list(dict.fromkeys(graph.program.ops[op].module for op in sorted(_lossy(plan, graph) - refitted)))


def _lossy(plan: PruningPlan, graph: PruningGraph) -> set[int]:
    """Ops that read removed nodes."""
    keep = graph.keep_mask(plan.kept)
    return {site.op for site in graph.sites if (~keep[site.reads[site.reads >= 0]]).any()}


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


def _complex(program: Program, weight: str) -> bool:
    """True if the weight has imaginary parts, of which second moments here know nothing."""
    return any(value.dtype.is_complex for value in program.values if value.name == weight)


def _reads_alone(program: Program, weight: str, uses: Collection[int]) -> bool:
    """True if nothing but these ops reads the weight."""
    readers = (program.readers[index] for index, value in enumerate(program.values) if value.name == weight)
    return all(reader in uses for reading in readers for reader in reading)
