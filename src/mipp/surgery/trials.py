"""Trial cuts: what tracing cannot tell about the sizes in the code, a cut network does.

A size follows the nodes (`x.shape[1] // 2`), is held by an attribute of the module (`self.num_heads`, which is then
updated), ties groups to each other, or is fixed, so that the nodes must stay.
"""

import glob
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product

from torch import Tensor, nn

from mipp.errors import InternalError, UnsupportedModelError
from mipp.graph.axes import Reason
from mipp.graph.builder import Draft, Findings
from mipp.graph.call import Call
from mipp.graph.frames import line_that_failed, module_that_refused
from mipp.graph.nodes import Doubt, NodeGroup, PruningGraph, Size, companions
from mipp.graph.trace import forward
from mipp.graph.trees import plain_in
from mipp.modules.sizes import attributes_of, numbers
from mipp.plan.plan import PruningPlan, shapes
from mipp.surgery.cut import apply
from mipp.surgery.doubts import by_group, cluster, company, in_blocks, names_in, near
from mipp.surgery.proof import agrees, agrees_at_once, silent, wrong_groups
from mipp.surgery.size_attributes import Reads, attributes_read, counted, further_remedies, remedies

_WIDEST = 64  # nodes that a kernel may demand multiples of
_ARITHMETIC = ("add", "sub", "rsub", "mul", "div", "full_like")


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
            more |= names_of(trial.graph, [name], trial.reason_of(name))
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
    wide = (other for name in names for other in companions(graph.groups, name))
    return PruningPlan.of(graph, model, {name: _middle(graph.groups[name], 0) for name in wide})


def _unequal(graph: PruningGraph, model: nn.Module, names: Iterable[str], equal: Collection[str] = ()) -> PruningPlan:
    """A plan without the first and the last nodes of some groups: of groups of one size each loses another number.

    What holds then does not hold by chance, because two widths that the code takes for one happen to be equal.

    Args:
        equal: Groups that lose equally many, one step more than the fewest.
    """
    groups = graph.groups
    kept = {other: _middle(groups[other], 1) for name in equal for other in companions(groups, name)}
    before: dict[int, int] = {}
    for group in (groups[name] for name in names):
        if group.name not in kept:
            step = before[group.size] = before.get(group.size, -1) + 1
            kept |= {other: _middle(groups[other], step) for other in companions(groups, group.name)}
    return PruningPlan.of(graph, model, kept)


def _middle(group: NodeGroup, step: int) -> range:
    """Nodes without the first and the last, in number one of those that can go, but never down to one of many."""
    first = min(2, group.size - 1)
    numbers = [*range(first, max(group.size - 2, first) + 1), *range(1, first)]
    if group.multiple > 1:
        numbers = list(range(group.multiple, group.size, group.multiple))
    removed = numbers[step % len(numbers)] if numbers else 0
    return range(removed // 2, group.size - (removed + 1) // 2)


def _number_in_code(graph: PruningGraph, name: str, model: nn.Module) -> Reason | None:
    """An op that takes the size of a group for a number, if there is one."""
    held = shapes(model)
    sizes = {held[s.tensor][s.axis] for s in graph.groups[name].slices}
    for op in graph.program.ops:
        numbers = {a for a in plain_in((op.args, dict(op.kwargs))) if type(a) is int}
        if op.name.rstrip("_") in _ARITHMETIC and not sizes.isdisjoint(numbers):
            return Reason(f"its size is a number in {op.name}, which a cut does not change", op.name, op.source)
    return None


class _TrialCut:
    """Settles doubts: first all at once, then those that concern the same groups or stand on the same lines."""

    def __init__(
        self, model: nn.Module, call: Call, freeze: Mapping[str, Reason], multiples: Mapping[str, int]
    ) -> None:
        self.model, self.call, self.freeze = model, call, freeze
        self.draft = Draft(model, call)
        self.findings = Findings(multiples=multiples)
        self._compared: dict[tuple[str, str], Tensor] = {}
        self.graph = self._draw(self.findings)

    def _draw(self, findings: Findings) -> PruningGraph:
        return self.draft.graph(self.freeze, replace(findings, compared=dict(self._compared)))

    def settle(self) -> bool:
        """Returns whether a trial cut of all groups holds at once; otherwise those that remain are to be tried."""
        if self._holds(self.graph, self.graph.groups):
            if self._compared:  # attributes that the trial found to follow
                self.graph = self._draw(self.findings)
            return True
        unsettled: list[list[Doubt]] = []
        for doubts in cluster(self.graph.doubts):
            if not self._remedy(doubts):
                if self._remedy_by_settings(doubts):
                    continue
                parts = by_group(doubts)
                unsettled += [part for part in parts if len(part) == len(doubts) or not self._remedy(part)]
        unsettled = self._tie_in_blocks(unsettled)
        for part in unsettled:
            others = {n for doubts in unsettled if doubts is not part for d in doubts for n in d.count.per_node}
            settled = (self.findings.ties and self._remedy(part)) or self._tie(part, others)
            if not settled and not self.align(names_in(self.graph, part), part):
                rejected = {**self.findings.rejected, **self._explain(part)}
                self.findings = replace(self.findings, rejected=rejected)
        self.graph = self._draw(self.findings)
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
                graph = self._draw(tried)
                if not (self._holds(graph, names) and self._holds(graph, names, equal=names)):
                    break
                found, multiple = tried, multiple // 2
            if found is not base:
                self.findings = found
                return True
        return False

    def _explain(self, doubts: Sequence[Doubt]) -> dict[int, Reason]:
        """The reasons why nodes in doubt stay: where the cut network fails at another line, what that line says."""
        graph = self._draw(self.findings)
        line = self._line_that_fails(graph, names_in(graph, doubts))
        there = next((d.reason for d in (*doubts, *self.graph.doubts) if line and d.reason.source == line), None)
        return {d.number: there or d.reason for d in doubts}

    def reason_of(self, name: str) -> Reason:
        """The reason why a cut of a group fails: often its size is a number in an op, such as x.sum() / x.shape[1]."""
        if (reason := _number_in_code(self.graph, name, self.model)) is not None:
            return reason
        line = self._line_that_fails(self.graph, [name])
        op = next((op for op in reversed(self.graph.program.ops) if line and op.source == line), None)
        if op is None:
            return Reason("cutting it did not equal masking it")
        return Reason(f"the code at {op.name} fails where it is cut", op.name, op.source)

    def _line_that_fails(self, graph: PruningGraph, names: Iterable[str]) -> str:
        """The line of the model's code at which a cut of groups fails, "" if it runs or the line is not known."""
        failure = self._failure(graph, names)
        return line_that_failed(failure) if failure is not None else ""

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
        graph = self._draw(self.findings)
        mine = names_in(graph, doubts)
        for name in mine:
            alike = [n for n, g in graph.groups.items() if g.size == graph.groups[name].size and n != name]
            companies = [near(graph, name, alike), *company(alike, unsettled)]
            for names, others in product(remedies(self.model, doubts), filter(None, companies)):
                findings = self._with_attributes(doubts, names)
                if tied := self._fewest_ties(mine, name, others, findings):
                    atoms = [self.draft.atoms_of(graph.groups[n]) for n in (name, *tied)]
                    self.findings = replace(findings, ties=(*findings.ties, *((atoms[0], a) for a in atoms[1:])))
                    return True
        return False

    def _tie_in_blocks(self, unsettled: list[list[Doubt]]) -> list[list[Doubt]]:
        """Ties heads to as many nodes of a stream as they are wide, where the code takes the one size for the other.

        Returns:
            The doubts that are unsettled still.
        """
        done: set[str] = set()
        graph = self._draw(self.findings)
        for stream, names in in_blocks(graph, unsettled):
            tied = {stream, *names}
            doubts = [d for part in unsettled for d in part if tied & d.count.per_node.keys()]
            if done.isdisjoint(tied) and self._hold_in_blocks(graph, stream, names, doubts):
                done |= tied
        return [part for part in unsettled if not all(done & d.count.per_node.keys() for d in part)]

    def _hold_in_blocks(self, graph: PruningGraph, stream: str, names: Sequence[str], doubts: Sequence[Doubt]) -> bool:
        """Ties every node of some groups to a run of nodes of a stream, unless a trial of that fails."""
        before, wide = self.findings, self.draft.atoms_of(graph.groups[stream])
        atoms = [self.draft.atoms_of(graph.groups[name]) for name in names]
        ties = ((own.repeat_interleave(len(wide) // len(own)), wide) for own in atoms)
        self.findings = replace(before, ties=(*before.ties, *ties))
        tied = names_in(self._draw(self.findings), doubts)
        if tied and self._remedy(doubts):
            return True
        self.findings = before
        return False

    def _fewest_ties(self, mine: Collection[str], name: str, others: Sequence[str], findings: Findings) -> list[str]:
        """Those of other groups that have to be cut along with one so that it can be cut; none if all do not help."""
        graph = self._draw(findings)

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
        graph = self._draw(findings)
        return self._holds(graph, names_in(graph, doubts))

    def _holds(self, graph: PruningGraph, names: Iterable[str], equal: Collection[str] = ()) -> bool:
        """True if a cut of these groups agrees with its mask; those in `equal` lose equally many nodes."""
        names = list(names)
        if not graph.groups.keys() >= {*names, *equal}:  # findings may freeze a group, or join it to another
            return False
        plan = _unequal(graph, self.model, names, equal)
        if all(width == plan.groups[name].size for name, width in plan.widths.items()):
            return True
        if (failure := self._failure(graph, names, equal)) is not None:  # seen in one pass of the smaller network
            return self._holds_beyond_checks(graph, names, equal, module_that_refused(failure))
        # heads that are counted wrongly may differ by less than rounding, as those of networks at their start do
        in_doubt = any(not d.count.per_node.keys().isdisjoint(names) for d in graph.doubts)
        return (not in_doubt and agrees_at_once(plan, self.model, self.call)) or agrees(plan, self.model, self.call)

    def _holds_beyond_checks(
        self, graph: PruningGraph, names: Sequence[str], equal: Collection[str], path: str | None
    ) -> bool:
        """True if a cut holds once an attribute follows with which a module compares the size that it is given.

        Args:
            path: The module that refuses it, None if an op fails.
        """
        own = attributes_of(self.model.get_submodule(path)) if path is not None else {}
        for (attribute, number), name in product(numbers(own), names):
            key, group = (path or "", attribute), graph.groups[name]
            atoms = self.draft.axes_of(group).get(number)
            if atoms is None or key in graph.attributes:
                continue
            follows = replace(graph, attributes={**graph.attributes, key: Size(0, {name: number // group.size})})
            failure = self._failure(follows, names, equal)
            if failure is None or module_that_refused(failure) != path:
                self._compared[key] = atoms
                if self._holds(follows, names, equal):
                    return True
                del self._compared[key]
        return False

    def _failure(
        self, graph: PruningGraph, names: Iterable[str], equal: Collection[str] = ()
    ) -> UnsupportedModelError | None:
        """The error that ends a pass of the network with groups cut, None if it runs."""
        try:
            with silent():
                forward(apply(_unequal(graph, self.model, names, equal), self.model), self.call)
        except UnsupportedModelError as error:
            return error
        except InternalError as error:  # a layer of ours in the place of the model's, which was given half of a node
            return UnsupportedModelError(str(error))
        return None
