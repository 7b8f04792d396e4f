"""The pruning plan: which nodes stay and where they live, as plain data."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from operator import index
from pathlib import Path
from typing import Any

from torch import nn

from mipp.errors import MippError, PlanMismatchError, clip, quote
from mipp.graph.nodes import NodeGroup, PruningGraph, Reduction, Size
from mipp.modules.copies import tensors_by_name
from mipp.plan.plan_file import FORMAT, PlanRecord, group_to_dict, reduction_to_list
from mipp.plan.rounds import compose
from mipp.runtime.paths import as_path
from mipp.runtime.typed import FormError, as_type, read_json


@dataclass(frozen=True, eq=False)
class PruningPlan:
    """The nodes that stay, and their positions in the tensors: plain data that can be saved, replayed and edited.

    Attributes:
        kept: Indices of the nodes that stay, by group, ascending.
        groups: The node groups the indices refer to.
        tensors: Shape of every parameter and buffer of the model the plan was made for.
        attributes: Module attributes that count nodes.
        reductions: Ops that run over an axis with removed positions.
        method: `repr` of the method that made it.
        budget: What had to hold.
        information: Nats that the removed nodes took with them, and nats of the whole group, where the method knows.
        heads: Number of heads of every `nn.MultiheadAttention`, which no tensor shape shows.
        sensitivity: Share of a group's information that none, a tenth, ... and all of its nodes carry, where known.
    """

    kept: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, NodeGroup]
    tensors: Mapping[str, tuple[int, ...]]
    attributes: Mapping[tuple[str, str], Size] = field(default_factory=dict)
    reductions: tuple[Reduction, ...] = ()
    method: str = ""
    budget: Mapping[str, Any] = field(default_factory=dict)
    information: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)
    sensitivity: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", {name: _indices(name, nodes) for name, nodes in self.kept.items()})
        if lacking := self.groups.keys() - self.kept.keys():
            raise PlanMismatchError(
                f"The plan does not say which nodes of group '{clip(min(lacking))}' stay; add it to kept."
            )
        for group in self.groups.values():
            _check_places(group, self.tensors)
        for name, nodes in self.kept.items():
            group = look_up(name, self.groups, "group")
            if list(nodes) != sorted(set(nodes)) or (nodes and not 0 <= nodes[0] <= nodes[-1] < group.size):
                raise PlanMismatchError(
                    f"The plan keeps nodes {quote(list(nodes)[:8])} of group '{clip(name)}', which has {group.size} "
                    f"nodes; expected ascending indices from 0 to {group.size - 1} without repeats."
                )
        for name, group in self.groups.items():
            lead = look_up(group.alike or name, self.groups, "group").name
            if len(self.kept[name]) != len(self.kept[lead]):
                raise PlanMismatchError(
                    f"The plan keeps {len(self.kept[name])} nodes of group '{clip(name)}' and {len(self.kept[lead])} "
                    f"of '{clip(lead)}', which have one size in one layer; expected equally many of both."
                )
        counted = [name for size in self.attributes.values() for name in size.per_node]
        for name in (*counted, *(name for r in self.reductions for name in r.positions)):
            look_up(name, self.groups, "group")

    @classmethod
    def of(
        cls, graph: PruningGraph, model: nn.Module, kept: Mapping[str, Collection[int]], method: str = "", **budget: Any
    ) -> "PruningPlan":
        """A plan for `model` from its graph; groups not named in `kept` keep every node."""
        for name in kept:
            look_up(name, graph.groups, "group")
        full = {name: tuple(sorted(kept.get(name, range(group.size)))) for name, group in graph.groups.items()}
        return cls(
            full, graph.groups, shapes(model), graph.attributes, graph.reductions, method, budget, heads=heads(model)
        )

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Groups that keep nothing; one silent node stands in for them."""
        return tuple(name for name, nodes in self.kept.items() if not nodes)

    @property
    def widths(self) -> dict[str, int]:
        """Number of nodes kept, by group."""
        return {name: len(nodes) for name, nodes in self.kept.items()}

    def with_kept(self, kept: Mapping[str, Collection[int]]) -> "PruningPlan":
        """The same plan with other nodes kept in the groups named; what theirs carry is then not known."""
        if not isinstance(kept, Mapping):
            raise PlanMismatchError(f"kept is {quote(kept)}; expected nodes by group, such as {{'conv1': [0, 2]}}.")
        new = {name: tuple(sorted(_indices(name, nodes))) for name, nodes in kept.items()}
        known = {name: found for name, found in self.information.items() if new.get(name) in (None, self.kept[name])}
        return replace(self, kept={**self.kept, **new}, information=known)

    def then(self, other: "PruningPlan") -> "PruningPlan":
        """One plan for this plan's model that removes what this one and the next round's plan remove.

        Raises:
            PlanMismatchError: The other plan is not for the model that this one leaves.
        """
        if not isinstance(other, PruningPlan):
            raise PlanMismatchError(f"The second plan is {quote(other)}; expected a plan of the next round.")
        return compose(self, other)

    def __repr__(self) -> str:
        kept, nodes = sum(self.widths.values()), sum(group.size for group in self.groups.values())
        made = f", method={self.method}, budget={dict(self.budget)}" if self.method else ""
        return f"PruningPlan({len(self.groups)} groups, {kept:,} of {nodes:,} nodes kept{made})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PruningPlan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data; `from_dict` reads it."""
        return {
            "format": FORMAT,
            "method": self.method,
            "budget": dict(self.budget),
            "kept": {name: list(nodes) for name, nodes in self.kept.items()},
            "collapsed": list(self.collapsed),
            "information": {name: list(nats) for name, nats in self.information.items()},
            "sensitivity": {name: list(shares) for name, shares in self.sensitivity.items()},
            "groups": {g.name: group_to_dict(g) for g in self.groups.values()},
            "attributes": [[*key, size.fixed, dict(size.per_node)] for key, size in self.attributes.items()],
            "heads": dict(self.heads),
            "reductions": [reduction_to_list(r) for r in self.reductions],
            "tensors": {name: list(shape) for name, shape in self.tensors.items()},
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, data: Any) -> "PruningPlan":
        """Reads what `to_dict` wrote.

        Raises:
            PlanMismatchError: The data are not a plan, or damaged.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = quote(data.get("format")) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise PlanMismatchError(f"This is not a pruning plan: expected the format {FORMAT!r}, found {found}.")
        try:
            record = as_type(PlanRecord, data)
            groups = record.node_groups()
            return cls(
                record.kept,
                groups,
                record.tensors,
                record.sizes(),
                tuple(record.node_reductions(groups)),
                record.method,
                record.budget,
                record.information,
                record.heads,
                record.sensitivity,
            )
        except FormError as error:
            raise PlanMismatchError(
                f"The pruning plan is damaged: {error}. Expected the file that save() wrote."
            ) from error


def load_plan(path: str | Path) -> PruningPlan:
    """Reads a plan.json.

    Raises:
        PlanMismatchError: The file is missing, is not JSON, or holds no plan.
    """
    path = as_path(path)
    try:
        return PruningPlan.from_dict(read_json(path))
    except FileNotFoundError as error:
        raise PlanMismatchError(
            f"There is no plan at {clip(str(path))}; expected a plan.json that save() wrote."
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PlanMismatchError(
            f"{clip(str(path))} cannot be read ({reason}); expected a plan.json that save() wrote."
        ) from error


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer of a model by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors_by_name(model).items()}


def heads(model: nn.Module) -> dict[str, int]:
    """Number of heads of every attention layer of torch's in a model, by path."""
    return {path: m.num_heads for path, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}


def look_up(name: str, names: Mapping[str, Any], what: str) -> Any:
    if name in names:
        return names[name]
    near = get_close_matches(clip(name), names, 1)
    hint = (
        f" Did you mean '{near[0]}'?"
        if near
        else f" Known are {', '.join(list(names)[:6])}" + (" and others." if len(names) > 6 else ".")
    )
    raise MippError(f"There is no {what} '{clip(name)}'.{clip(hint)}")


def _indices(name: str, nodes: Iterable[Any]) -> tuple[int, ...]:
    """Nodes of a group as integers, also from those of NumPy."""
    try:
        return tuple(map(index, nodes))
    except TypeError as error:
        raise PlanMismatchError(
            f"The plan keeps {quote(nodes)} of group '{clip(name)}'; expected indices of its nodes."
        ) from error


def _check_places(group: NodeGroup, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses a group whose nodes are where no tensor of the model is."""
    for s in group.slices:
        shape = tensors.get(s.tensor, ())
        length = shape[s.axis] if 0 <= s.axis < len(shape) else 0
        if len(s.positions) != group.size or s.positions.min(initial=0) < 0 or s.positions.max(initial=0) >= length:
            raise PlanMismatchError(
                f"Group '{clip(group.name)}' has {group.size} nodes along axis {s.axis} of '{clip(s.tensor)}', whose "
                f"shape in the plan is {quote(tuple(shape))}; expected positions inside of it."
            )
