"""Proof by running: the cut model computes what the masked model computes, in float64.

A trial cut also settles what tracing cannot: whether a size in the code follows the nodes (`x.shape[1] // 2`), is held
by an attribute of the module (`self.num_heads`, which is then updated), or is fixed, so that the nodes must stay.
"""

import glob
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import product
from typing import Any

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
from mipp.surgery.masked import mask
from mipp.surgery.precision import forward_in_double
from mipp.surgery.size_attributes import Reads, attributes_read, counted, further_remedies, remedies

log = logging.getLogger(__name__)
_MARGIN, _NOISIEST = 8, 1e-2  # times the noise between two passes; relative to the outputs
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


def _in_double(model: nn.Module, call: Call) -> list[Tensor]:
    model.eval()
    return results_in(forward_in_double(model, call))


_OWN = "the model's own precision"
_IN_OWN = (
    "The cut was compared with the masked network in the model's own precision, to a thousandth of the outputs or the "
    "rounding of their type: the model does not run in float64."
)
_PRECISIONS = (
    ("float64", _in_double, 1e-8),
    ("float64", outputs, 1e-8),
    (_OWN, partial(outputs, dtype=None), 1e-3),
)


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
    while True:
        trial = _TrialCut(model, call, freeze)
        if trial.settle():
            return trial.graph
        wrong = wrong_groups(_less(trial.graph, model, trial.graph.groups), model, call)
        noisy = bool(wrong) and not agrees(_less(trial.graph, model, ()), model, call)
        if not wrong or noisy:  # if even uncut passes differ, a difference proves nothing
            return trial.graph
        more: dict[str, Reason] = {}
        for name in wrong:
            more |= names_of(trial.graph, [name], _number_in_code(trial.graph, name, model))
        freeze = extend_frozen(freeze, more, wrong)


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

    def __init__(self, model: nn.Module, call: Call, freeze: Mapping[str, Reason]) -> None:
        self.model, self.call, self.freeze = model, call, freeze
        self.draft = Draft(model, call)
        self.findings = Findings()
        self.graph = self.draft.graph(freeze)

    def settle(self) -> bool:
        """Returns whether a trial cut of all groups holds at once; otherwise those that remain are to be tried."""
        if self._holds(self.graph, self.graph.groups):
            return True
        unsettled: list[list[Doubt]] = []
        for doubts in _cluster(self.graph.doubts):
            if not self._remedy(doubts):
                if self._remedy_by_settings(doubts):
                    continue
                parts = _by_group(doubts)
                unsettled += [part for part in parts if len(part) == len(doubts) or not self._remedy(part)]
        for part in unsettled:
            others = {n for doubts in unsettled if doubts is not part for d in doubts for n in d.count.per_node}
            if not (self.findings.ties and self._remedy(part)) and not self._tie(part, others):
                rejected = {**self.findings.rejected, **self._explain(part)}
                self.findings = replace(self.findings, rejected=rejected)
        self.graph = self.draft.graph(self.freeze, self.findings)
        return False

    def _explain(self, doubts: Sequence[Doubt]) -> dict[int, Reason]:
        """The reasons why nodes in doubt stay: where the cut network fails at another line, what that line says."""
        graph, line = self.draft.graph(self.freeze, self.findings), ""
        try:
            forward(apply(_unequal(graph, self.model, _names_in(graph, doubts)), self.model), self.call)
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
        mine = _names_in(graph, doubts)
        for name in mine:
            alike = [n for n, g in graph.groups.items() if g.size == graph.groups[name].size and n != name]
            companies = [_near(graph, name, alike), *_company(alike, unsettled)]
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
        return self._holds(graph, _names_in(graph, doubts))

    def _holds(self, graph: PruningGraph, names: Iterable[str], equal: Collection[str] = ()) -> bool:
        """True if a cut of these groups agrees with its mask; those in `equal` lose equally many nodes."""
        plan = _unequal(graph, self.model, names, equal)
        removes = any(width < plan.groups[name].size for name, width in plan.widths.items())
        return not removes or agrees(plan, self.model, self.call)


def _near(graph: PruningGraph, name: str, alike: Sequence[str]) -> list[str]:
    """Groups whose sizes are given by the modules that give those of one group, or those of such groups, and so on."""
    modules = {n: {d.module for d in graph.doubts if n in d.count.per_node} for n in (name, *alike)}
    near, met = [name], set(modules[name])
    while more := [n for n in alike if n not in near and met & modules[n]]:
        near += more
        met = met.union(*(modules[n] for n in more))
    return near[1:]


def _company(alike: Sequence[str], unsettled: Collection[str]) -> Iterator[list[str]]:
    """Groups that one group may be tied to: all of its size, those that can be cut alone, and one more with these."""
    if not alike:
        return
    yield list(alike)
    sound = [name for name in alike if name not in unsettled]
    if 0 < len(sound) < len(alike):
        yield sound
    if len(alike) - len(sound) > 1:
        yield from ([*sound, name] for name in alike if name in unsettled)


def _names_in(graph: PruningGraph, doubts: Sequence[Doubt]) -> list[str]:
    """The groups that doubts concern."""
    numbers = {d.number for d in doubts}
    return list(dict.fromkeys(name for d in graph.doubts if d.number in numbers for name in d.count.per_node))


def _cluster(doubts: Sequence[Doubt]) -> list[list[Doubt]]:
    """Doubts that share a group or a line of code stand or fall together."""
    clusters: list[tuple[set[Any], list[Doubt]]] = []
    for doubt in doubts:
        keys: set[Any] = {*doubt.count.per_node, doubt.reason}
        touching = [c for c in clusters if c[0] & keys]
        merged = [d for _, members in touching for d in members]
        clusters = [c for c in clusters if not c[0] & keys]
        clusters.append((keys.union(*(c[0] for c in touching)), [*merged, doubt]))
    return [members for _, members in clusters]


def _by_group(doubts: Sequence[Doubt]) -> list[list[Doubt]]:
    names = dict.fromkeys(name for d in doubts for name in d.count.per_node)
    return [[d for d in doubts if name in d.count.per_node] for name in names]
