"""The weights that are refitted after nodes are removed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from mipp.data.augmentation import may_vary
from mipp.graph.downstream import Downstream, downstream, read_by_relu
from mipp.graph.layers import bias_of, input_of
from mipp.graph.nodes import PruningGraph, Site
from mipp.graph.program import Op, Program, Ref
from mipp.modules.copies import tensors_by_name
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.recurrence import writers, written_by
from mipp.refit.rows import is_scarce
from mipp.refit.settings import Refit
from mipp.refit.through_time import Learner
from mipp.statistics.paths import Path

Wanted = tuple[list[int], int]
"""Values, and the index of the first op after those that make them."""


@dataclass
class Target:
    """The uses of one weight: they are refitted together.

    Attributes:
        weight: Its name.
        uses: Those in the graph's program.
        by_path: Those on the paths of batches that were asked for.
    """

    weight: str
    uses: list[Site] = field(default_factory=list)
    by_path: "dict[Path, Uses]" = field(default_factory=dict, repr=False, compare=False)

    def wanted(self, path: Path) -> Wanted:
        """The values on the path of the dense network that the cut one is compared with."""
        uses = Uses.of(self, path)
        values = [op.outputs[0] for _, op, _ in uses.sites]
        return uses.with_inputs([*values, *([uses.joined] if uses.joined >= 0 else [])])

    def read(self, path: Path, *, is_taught: bool = False) -> Wanted:
        """The values on the path of the cut network that it is fitted from, without outputs that rows of inputs tell.

        Args:
            path: The path.
            is_taught: Whether what the weight has written is taken from the dense network.
        """
        uses = Uses.of(self, path)
        made = ((op.outputs[0], bias_of(op)) for _, op, _ in uses.sites)
        told = [bias.index if is_taught else out for out, bias in made if bias and bias.index not in path.bound]
        return uses.with_inputs(told, uses.written if is_taught else ())


@dataclass(frozen=True)
class Uses:
    """The uses of a weight on the path of a batch.

    Attributes:
        program: The ops of the path.
        sites: Every use, with its op there and what follows it.
        joined: The value behind the only use, if nothing but ReLUs reads it, else -1.
    """

    program: Program
    sites: Sequence[tuple[Site, Op, Downstream]]
    joined: int

    @classmethod
    def of(cls, target: Target, path: Path) -> "Uses":
        """Those of a target; none where the path leaves them out."""
        if path in target.by_path:
            return target.by_path[path]
        found = [(site, op, downstream(path.program, op)) for site in target.uses for op in path.uses(site)]
        joined = [read_by_relu(path.program, op, after) for _, op, after in found]
        return target.by_path.setdefault(path, cls(path.program, found, joined[0] if len(joined) == 1 else -1))

    @cached_property
    def written(self) -> frozenset[int]:
        """The values that what the weight writes enters."""
        return written_by(self.program, writers(self.program, [op for _, op, _ in self.sites]))

    def with_inputs(self, values: Sequence[int], without: Collection[int] = ()) -> Wanted:
        """These values, and those that the layers read or join; without some."""
        wanted = list(values)
        for _, op, after in self.sites:
            wanted += [input_of(op), *([after.other] if after.other >= 0 else [])]
        wanted = [value for value in wanted if value not in without]
        made = [self.program.values[value].producer for value in wanted]
        return wanted, max(made, default=-1) + 1


def offset_place(program: Program, op: Op, after: Downstream, uses: int) -> str:
    """Name of the parameter that takes the offset of a layer, "" if there is none, or if other ops read it too."""
    bias = bias_of(op)
    if bias is None and after.norm >= 0:
        bias = program.ops[after.norm].arguments["bias"]
    if not isinstance(bias, Ref) or program.values[bias.index].origin != "parameter":
        return ""
    return program.values[bias.index].name if len(program.readers[bias.index]) == uses else ""


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


def feeder(graph: PruningGraph, target: Target, start: int) -> Target | None:
    """The weight of the inputs of a recurrence that reads them before its first step, as that of an LSTM does.

    Args:
        graph: That of the dense model.
        target: The weight of the states.
        start: The first op that may be one of its uses.
    """
    program, first = graph.program, target.uses[0].op
    module = program.ops[first].module
    before = [site for site in graph.sites if start <= site.op < first and program.ops[site.op].module == module]
    if not before or before[-1].weight in ("", target.weight) or before[-1].groups > 1:
        return None
    weight = before[-1].weight
    own = Target(weight, [site for site in graph.sites if site.weight == weight])
    ops = {site.op for site in own.uses}
    if max(ops) > first or _complex(program, weight) or not _reads_alone(program, weight, ops):
        return None
    return own


def learner_of(target: Target, silent: Tensor, program: Program, tensors: Mapping[str, Tensor]) -> Learner:
    """The weight as it is fitted through time, among the tensors of the cut model."""
    op, count = program.ops[target.uses[0].op], len(target.uses)
    bias = offset_place(program, op, Downstream(), count) if bias_of(op) is not None else ""
    return Learner(target.uses[0], tensors[target.weight], tensors.get(bias), silent)


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


def variations(small: nn.Module, targets: Sequence[Target], task: Task, options: Refit) -> int:
    """Number of times that images are varied: as wanted, else by effort where a convolution has few rows."""
    if not may_vary(task.batches[0].call):
        return 0
    if options.variations is not None:
        return options.variations
    _, samples = task.place()
    tensors = tensors_by_name(small)
    scarce = (is_scarce(target.uses[0], tensors[target.weight], task.graph, samples) for target in targets)
    return task.effort.variations if any(scarce) else 0
