"""Proof by running: the cut model computes what the masked model computes, in float64.

A trial cut also settles what tracing cannot: whether a size in the code follows the nodes (`x.shape[1] // 2`), is held
by an attribute of the module (`self.num_heads`, which is then updated), or is fixed, so that the nodes must stay.
"""

import glob
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import product

import torch
from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.graph.axes import Reason
from mipp.graph.builder import Draft, Findings
from mipp.graph.call import Call
from mipp.graph.nodes import Doubt, NodeGroup, PruningGraph
from mipp.graph.trace import forward, line_that_failed
from mipp.graph.trees import plain_in, results_in
from mipp.modules.copies import cast, full_copy
from mipp.plan.plan import PruningPlan, shapes
from mipp.runtime.record import Notes
from mipp.surgery.cut import apply
from mipp.surgery.doubts import by_group, cluster, company, names_in, near
from mipp.surgery.masked import mask
from mipp.surgery.precision import forward_in_double
from mipp.surgery.size_attributes import Reads, attributes_read, counted, further_remedies, remedies

log = logging.getLogger(__name__)
_MARGIN, _NOISIEST = 8, 1e-2  # times the noise between two passes; relative to the outputs
_WIDEST = 64  # nodes that a kernel may demand multiples of
_ROUNDINGS = 32  # of a type of fewer digits, by which two ways to compute the same may differ in the end
_ARITHMETIC = ("add", "sub", "rsub", "mul", "div", "full_like")


def outputs(model: nn.Module, call: Call, dtype: torch.dtype | None = torch.float64) -> list[Tensor]:
    """The outputs of a model in eval mode, computed by a copy in `dtype` (None: in its own)."""
    copied = full_copy(model)
    copied.eval()
    if dtype is None:
        return results_in(forward(copied, call))
    cast(copied, lambda _, t: dtype if t.is_floating_point() else dtype.to_complex() if t.is_complex() else t.dtype)
    return results_in(forward(copied, call.map(lambda t: t.to(dtype) if t.is_floating_point() else t)))


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference relative to the typical size of each output; infinite if shapes, infinities or NaN differ."""
    if len(found) != len(expected):
        return float("inf")
    return max((_distance(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.is_meta or not a.numel():
        return 0.0
    if a.is_complex():
        return _distance(torch.view_as_real(a), torch.view_as_real(b))
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return float("inf")
    sizes = b[finite].abs()
    usual = sizes[sizes < 1e30]  # without the numbers that stand for minus infinity
    scale = float(usual.max().clamp_min(1e-30)) if len(usual) else 1.0
    return float(((a - b)[finite].abs() / sizes.clamp_min(scale)).max()) if len(sizes) else 0.0


def rounding(tensors: Iterable[Tensor]) -> float:
    """The relative rounding error between two ways to compute the same, in the coarsest type of the tensors."""
    kinds = {t.dtype for t in tensors if t.is_floating_point()}
    return max((_ROUNDINGS * torch.finfo(kind).eps for kind in kinds), default=0.0)


def agrees(plan: PruningPlan, model: nn.Module, call: Call, notes: Notes | None = None) -> bool:
    """True if the cut model runs and computes what the masked model computes; `notes` get a low precision."""
    same, precision = compare(plan, model, call)
    if same and precision == _OWN and notes is not None:
        notes.append(_IN_OWN)
    return same


def compare(plan: PruningPlan, model: nn.Module, call: Call) -> tuple[bool, str]:
    """True if the cut model computes what the masked model computes; and the precision in which they were compared.

    The two are there one after the other, and in their own type: weights are cast to float64 op by op. Where that
    cannot be (recurrent layers refuse inputs of another type), copies in float64 are compared; where the code asks for
    a type, the models in their own. Where passes of the masked model differ among themselves, so may the cut one.
    """
    for name, compute, tolerance in _PRECISIONS:
        try:
            expected = compute(mask(plan, model), call)
        except UnsupportedModelError:
            if name == _OWN:  # a model that does not run at all is not the fault of the cut
                raise
            continue
        try:
            with _silent():
                found = compute(apply(plan, model), call)
            coarse = rounding([*model.parameters(), *found]) if name == _OWN else 0.0
            gap = distance(found, expected)
            if tolerance < gap <= _NOISIEST:  # the model itself may say something else each time
                coarse = max(coarse, _MARGIN * distance(compute(mask(plan, model), call), expected))
            return gap <= max(tolerance, coarse), name
        except UnsupportedModelError as error:
            log.info("a trial cut failed: %s", error)
            return False, name
    return False, _OWN


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps back the warnings of a trial: it may fail, and nobody asked for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _in_double(model: nn.Module, call: Call) -> list[Tensor]:
    model.eval()
    return results_in(forward_in_double(model, call))


_OWN = "the model's own precision"
_IN_OWN = (
    "The cut was compared with the masked network in the model's own precision, to a thousandth of the outputs or the "
    "rounding of their type: the model does not run in float64."
)
_PRECISIONS = (("float64", _in_double, 1e-8), ("float64", outputs, 1e-8), (_OWN, partial(outputs, dtype=None), 1e-3))


def wrong_groups(plan: PruningPlan, model: nn.Module, call: Call, notes: Notes | None = None) -> list[str]:
    """Groups whose cut differs from their mask; none when the whole plan agrees, and `notes` get how exactly."""
    if agrees(plan, model, call, notes):
        return []
    changed = [name for name, group in plan.groups.items() if len(plan.kept[name]) < group.size]
    whole = {name: range(group.size) for name, group in plan.groups.items()}
    alone = [n for n in changed if not agrees(plan.with_kept({**whole, n: plan.kept[n]}), model, call)]
    return alone or _wrong_together(plan, model, call, changed)


def _wrong_together(plan: PruningPlan, model: nn.Module, call: Call, changed: Sequence[str]) -> list[str]:
    """Groups of which each can be cut alone: those that cannot be cut besides the others before them."""
    kept: dict[str, Sequence[int]] = {name: range(group.size) for name, group in plan.groups.items()}
    wrong = []
    for name in changed:
        if agrees(plan.with_kept({**kept, name: plan.kept[name]}), model, call):
            kept[name] = plan.kept[name]
        else:
            wrong.append(name)
    return wrong or list(changed)


def verified_graph(model: nn.Module, call: Call, freeze: Mapping[str, Reason]) -> PruningGraph:
    """The pruning graph of a model, with the sizes in its code settled by trial cuts; groups that fail are frozen.

    Raises:
        UnsupportedModelError: A trial cut fails whatever is frozen.
    """
    multiples: Mapping[str, int] = {}
    while True:
        trial = _TrialCut(model, call, freeze, multiples)
        if trial.settle():
            return trial.graph
        wrong = wrong_groups(_less(trial.graph, model, trial.graph.groups), model, call)
        noisy = bool(wrong) and not agrees(_less(trial.graph, model, ()), model, call)
        if not wrong or noisy:  # if even uncut passes differ, a difference proves nothing
            return trial.graph
        more: dict[str, Reason] = {}
        wrong = [name for name in wrong if trial.holds_alone(name) or not trial.align([name])]
        multiples = trial.findings.multiples
        for name in wrong:
            more |= names_of(trial.graph, [name], _number_in_code(trial.graph, name, model))
        freeze = extend_frozen(freeze, more, wrong) if wrong else freeze


def extend_frozen(freeze: Mapping[str, Reason], more: Mapping[str, Reason], groups: Sequence[str]) -> dict[str, Reason]:
    """Adds names to freeze; with nothing to add the same groups would fail for ever."""
    if more.keys() <= freeze.keys():
        raise UnsupportedModelError(
            f"Cutting {', '.join(groups[:5])} does not equal masking it, and freezing it does not help. Please "
            "report the model, and meanwhile exclude the modules that read it."
        )
    return {**freeze, **more}


def names_of(graph: PruningGraph, groups: Iterable[str], reason: Reason) -> dict[str, Reason]:
    """Globs of the modules whose nodes are those of groups, with a reason to freeze them."""
    found: dict[str, Reason] = {}
    for group in (graph.groups[name] for name in groups):
        found |= {glob.escape(owner): reason for owner in group.producers or group.consumers}
    return found


def _less(graph: PruningGraph, model: nn.Module, names: Iterable[str]) -> PruningPlan:
    """A plan without the first and the last nodes of some groups, as few as can go."""
    return PruningPlan.of(graph, model, {name: _middle(graph.groups[name], 0) for name in names})


def _unequal(graph: PruningGraph, model: nn.Module, names: Iterable[str], equal: Collection[str] = ()) -> PruningPlan:
    """A plan without the first and the last nodes of some groups: of groups of one size each loses another number.

    What holds then does not hold by chance, because two widths that the code takes for one happen to be equal.

    Args:
        equal: Groups that lose equally many, one step more than the fewest.
    """
    kept = {name: _middle(graph.groups[name], 1) for name in equal}
    before: dict[int, int] = {}
    for group in (graph.groups[name] for name in names if name not in kept):
        step = before[group.size] = before.get(group.size, -1) + 1
        kept[group.name] = _middle(group, step)
    return PruningPlan.of(graph, model, kept)


def _middle(group: NodeGroup, step: int) -> range:
    """Nodes without the first and the last, in number one of those that can go, but never down to one of many."""
    first = min(2, group.size - 1)
    numbers = [*range(first, max(group.size - 2, first) + 1), *range(1, first)]
    if group.multiple > 1:
        numbers = list(range(group.multiple, group.size, group.multiple))
    removed = numbers[step % len(numbers)] if numbers else 0
    return range(removed // 2, group.size - (removed + 1) // 2)


def _number_in_code(graph: PruningGraph, name: str, model: nn.Module) -> Reason:
    """The reason why a cut of a group fails: most often its size is a number in an op, such as x.sum() / x.shape[1]."""
    held = shapes(model)
    sizes = {held[s.tensor][s.axis] for s in graph.groups[name].slices}
    for op in graph.program.ops:
        numbers = {a for a in plain_in((op.args, dict(op.kwargs))) if type(a) is int}
        if op.name.rstrip("_") in _ARITHMETIC and not sizes.isdisjoint(numbers):
            return Reason(f"its size is a number in {op.name}, which a cut does not change", op.name, op.source)
    return Reason("cutting it did not equal masking it")


class _TrialCut:
    """Settles doubts: first all at once, then those that concern the same groups or stand on the same lines."""

    def __init__(
        self, model: nn.Module, call: Call, freeze: Mapping[str, Reason], multiples: Mapping[str, int]
    ) -> None:
        self.model, self.call, self.freeze = model, call, freeze
        self.draft = Draft(model, call)
        self.findings = Findings(multiples=multiples)
        self.graph = self.draft.graph(freeze, self.findings)

    def settle(self) -> bool:
        """Returns whether a trial cut of all groups holds at once; otherwise those that remain are to be tried."""
        if self._holds(self.graph, self.graph.groups):
            return True
        unsettled: list[list[Doubt]] = []
        for doubts in cluster(self.graph.doubts):
            if not self._remedy(doubts):
                if self._remedy_by_settings(doubts):
                    continue
                parts = by_group(doubts)
                unsettled += [part for part in parts if len(part) == len(doubts) or not self._remedy(part)]
        for part in unsettled:
            others = {n for doubts in unsettled if doubts is not part for d in doubts for n in d.count.per_node}
            settled = (self.findings.ties and self._remedy(part)) or self._tie(part, others)
            if not settled and not self.align(names_in(self.graph, part), part):
                rejected = {**self.findings.rejected, **self._explain(part)}
                self.findings = replace(self.findings, rejected=rejected)
        self.graph = self.draft.graph(self.freeze, self.findings)
        return False

    def holds_alone(self, name: str) -> bool:
        """True if a group can be cut by itself, so that it is no multiple that it lacks."""
        return self._holds(self.graph, [name])

    def align(self, names: Sequence[str], doubts: Sequence[Doubt] = ()) -> bool:
        """Finds the multiple in which groups can be cut, where a kernel or a check takes no other widths.

        The largest power of two that their sizes allow is tried first: if that does not hold, no smaller one does.

        Args:
            names: The groups.
            doubts: Sizes that have to follow them, if need be by attributes.
        """
        sizes = [self.graph.groups[name].size for name in names]
        largest = min((min(size & -size, size // 2) for size in sizes), default=1)
        for attributes in remedies(self.model, doubts) if largest > 1 else ():
            base, multiple = self._with_attributes(doubts, attributes), min(largest, _WIDEST)
            found = base
            while multiple > 1:
                multiples = {**base.multiples, **dict.fromkeys(names, multiple)}
                tried = replace(base, multiples=multiples)
                graph = self.draft.graph(self.freeze, tried)
                if not (self._holds(graph, names) and self._holds(graph, names, equal=names)):
                    break
                found, multiple = tried, multiple // 2
            if found is not base:
                self.findings = found
                return True
        return False

    def _explain(self, doubts: Sequence[Doubt]) -> dict[int, Reason]:
        """The reasons why nodes in doubt stay: where the cut network fails at another line, what that line says."""
        graph, line = self.draft.graph(self.freeze, self.findings), ""
        try:
            with _silent():
                forward(apply(_unequal(graph, self.model, names_in(graph, doubts)), self.model), self.call)
        except UnsupportedModelError as error:
            line = line_that_failed(error)
        there = next((d.reason for d in (*doubts, *self.graph.doubts) if line and d.reason.source == line), None)
        return {d.number: there or d.reason for d in doubts}

    @cached_property
    def _reads(self) -> Reads:
        return attributes_read(self.model, self.call)

    def _remedy(self, doubts: Sequence[Doubt]) -> bool:
        for names in remedies(self.model, doubts):
            if self._settles(doubts, self._with_attributes(doubts, names)):
                self.findings = self._with_attributes(doubts, self._minimal(doubts, names))
                return True
        return False

    def _remedy_by_settings(self, doubts: Sequence[Doubt]) -> bool:
        """Lets attributes follow from which the code computes the sizes."""
        for names in further_remedies(self.model, doubts, self._reads):
            follow = counted(self.model, doubts, names, self._reads)
            findings = replace(self.findings, attributes={**self.findings.attributes, **follow})
            if self._settles(doubts, findings):
                self.findings = findings
                return True
        return False

    def _minimal(self, doubts: Sequence[Doubt], names: Collection[str]) -> Collection[str]:
        """The attributes among `names` without which the trial fails; others have the size by chance."""
        for name in list(names) if len(names) > 1 else []:
            fewer = [n for n in names if n != name]
            names = fewer if self._settles(doubts, self._with_attributes(doubts, fewer)) else names
        return names

    def _with_attributes(self, doubts: Sequence[Doubt], names: Collection[str]) -> Findings:
        """The findings, and attributes that follow the sizes in doubt."""
        return replace(self.findings, attributes={**self.findings.attributes, **counted(self.model, doubts, names)})

    def _tie(self, doubts: Sequence[Doubt], unsettled: Collection[str]) -> bool:
        """Ties groups of one size that can only be cut to one width: the code writes the size of one for another's.

        Args:
            doubts: Sizes that do not follow their group where it is cut alone.
            unsettled: Other groups that cannot be cut alone either.
        """
        graph = self.draft.graph(self.freeze, self.findings)
        mine = names_in(graph, doubts)
        for name in mine:
            alike = [n for n, g in graph.groups.items() if g.size == graph.groups[name].size and n != name]
            companies = [near(graph, name, alike), *company(alike, unsettled)]
            for names, others in product(remedies(self.model, doubts), filter(None, companies)):
                findings = self._with_attributes(doubts, names)
                if tied := self._needed(mine, name, others, findings):
                    atoms = [self.draft.atoms_of(graph.groups[n]) for n in (name, *tied)]
                    self.findings = replace(findings, ties=(*findings.ties, *((atoms[0], a) for a in atoms[1:])))
                    return True
        return False

    def _needed(self, mine: Collection[str], name: str, others: Sequence[str], findings: Findings) -> list[str]:
        """Those of other groups that have to be cut along with one so that it can be cut; none if all do not help."""
        graph = self.draft.graph(self.freeze, findings)

        def holds(some: Sequence[str]) -> bool:
            return self._holds(graph, [*mine, *some], equal=[name, *some])

        if not holds(others):
            return []
        needed = list(others)
        for other in others:
            fewer = [n for n in needed if n != other]
            needed = fewer if fewer and holds(fewer) else needed
        return needed

    def _settles(self, doubts: Sequence[Doubt], findings: Findings) -> bool:
        """True if a trial cut of the groups in doubt holds."""
        graph = self.draft.graph(self.freeze, findings)
        return self._holds(graph, names_in(graph, doubts))

    def _holds(self, graph: PruningGraph, names: Iterable[str], equal: Collection[str] = ()) -> bool:
        """True if a cut of these groups agrees with its mask; those in `equal` lose equally many nodes."""
        plan = _unequal(graph, self.model, names, equal)
        removes = any(width < plan.groups[name].size for name, width in plan.widths.items())
        return not removes or agrees(plan, self.model, self.call)
