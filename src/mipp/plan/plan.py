"""The pruning plan: which nodes stay and where they live, as plain data."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mipp.errors import MippError, PlanMismatchError
from mipp.graph.axes import Ints
from mipp.graph.nodes import NodeGroup, ParamSlice, PruningGraph, Reduction, Size
from mipp.modules.copies import tensors_by_name
from mipp.plan.rounds import compose

FORMAT = "mipp-plan-1"


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
        kept = {name: tuple(map(index, nodes)) for name, nodes in self.kept.items()}  # of NumPy's, too
        object.__setattr__(self, "kept", kept)
        if lacking := self.groups.keys() - self.kept.keys():
            raise PlanMismatchError(
                f"The plan does not say which nodes of group '{min(lacking)}' stay; add it to kept."
            )
        for group in self.groups.values():
            _check_places(group, self.tensors)
        for name, nodes in self.kept.items():
            group = look_up(name, self.groups, "group")
            if list(nodes) != sorted(set(nodes)) or (nodes and not 0 <= nodes[0] <= nodes[-1] < group.size):
                raise PlanMismatchError(
                    f"The plan keeps nodes {list(nodes)[:8]} of group '{name}', which has {group.size} nodes; expected "
                    f"ascending indices from 0 to {group.size - 1} without repeats."
                )

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
        """The same plan with other nodes kept in the groups named."""
        return replace(self, kept={**self.kept, **{name: tuple(sorted(nodes)) for name, nodes in kept.items()}})

    def then(self, other: "PruningPlan") -> "PruningPlan":
        """One plan for this plan's model that removes what this one and the next round's plan remove.

        Raises:
            PlanMismatchError: The other plan is not for the model that this one leaves.
        """
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
            "groups": {g.name: _group_to_dict(g) for g in self.groups.values()},
            "attributes": [[*key, size.fixed, dict(size.per_node)] for key, size in self.attributes.items()],
            "heads": dict(self.heads),
            "reductions": [_reduction_to_list(r) for r in self.reductions],
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
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PlanMismatchError(f"This is not a pruning plan: expected the format {FORMAT!r}, found {found!r}.")
        try:
            groups: dict[str, NodeGroup] = {}
            for name, item in data["groups"].items():
                groups[name] = _group_from_dict(name, item, sum(g.size for g in groups.values()))
            return cls(
                {str(n): tuple(nodes) for n, nodes in data["kept"].items()},
                groups,
                {n: tuple(shape) for n, shape in data["tensors"].items()},
                {(m, a): Size(fixed, per_node) for m, a, fixed, per_node in data["attributes"]},
                tuple(_reduction_from_list(item, groups) for item in data["reductions"]),
                data["method"],
                data["budget"],
                {n: (float(lost), float(whole)) for n, (lost, whole) in data["information"].items()},
                {n: int(count) for n, count in data.get("heads", {}).items()},
                {n: tuple(map(float, shares)) for n, shares in data.get("sensitivity", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanMismatchError(
                f"The pruning plan is damaged ({type(error).__name__}: {error}); expected the file that save() wrote."
            ) from error


def load_plan(path: str | Path) -> PruningPlan:
    """Reads a plan.json.

    Raises:
        PlanMismatchError: The file is missing, is not JSON, or holds no plan.
    """
    path = Path(path)
    try:
        return PruningPlan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise PlanMismatchError(f"There is no plan at {path}; expected a plan.json that save() wrote.") from error
    except OSError as error:
        raise PlanMismatchError(f"{path} cannot be read ({error.strerror}); expected a plan.json.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PlanMismatchError(f"{path} is not readable as JSON ({error}); it is damaged or not a plan.") from error


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer of a model by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors_by_name(model).items()}


def heads(model: nn.Module) -> dict[str, int]:
    """Number of heads of every attention layer of torch's in a model, by path."""
    return {path: m.num_heads for path, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}


def look_up(name: str, names: Mapping[str, Any], what: str) -> Any:
    if name in names:
        return names[name]
    near = get_close_matches(name, names, 1)
    hint = (
        f" Did you mean '{near[0]}'?"
        if near
        else f" Known are {', '.join(list(names)[:6])}" + (" and others." if len(names) > 6 else ".")
    )
    raise MippError(f"There is no {what} '{name}'.{hint}")


def _group_to_dict(group: NodeGroup) -> dict[str, Any]:
    slices = [[s.tensor, s.axis, s.reads, *_encode(s.positions)] for s in group.slices]
    return {"size": group.size, "slices": slices} | ({"multiple": group.multiple} if group.multiple > 1 else {})


def _check_places(group: NodeGroup, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses a group whose nodes are where no tensor of the model is."""
    for s in group.slices:
        shape = tensors.get(s.tensor, ())
        length = shape[s.axis] if 0 <= s.axis < len(shape) else 0
        if len(s.positions) != group.size or s.positions.min(initial=0) < 0 or s.positions.max(initial=0) >= length:
            raise PlanMismatchError(
                f"Group '{group.name}' has {group.size} nodes along axis {s.axis} of '{s.tensor}', whose shape in the "
                f"plan is {tuple(shape)}; expected positions inside of it."
            )


def _group_from_dict(name: str, item: Mapping[str, Any], first_node: int) -> NodeGroup:
    size = int(item["size"])
    slices = tuple(
        ParamSlice(t, axis, _decode(size, kind, data), reads) for t, axis, reads, kind, data in item["slices"]
    )
    return NodeGroup(name, size, slices, first_node, int(item.get("multiple", 1)))


def _reduction_to_list(r: Reduction) -> list[Any]:
    positions = {name: _encode(places) for name, places in r.positions.items()}
    return [r.module, r.op, r.call, r.length, positions, [list(read) for read in r.reads], list(r.writes)]


def _reduction_from_list(item: Sequence[Any], groups: Mapping[str, NodeGroup]) -> Reduction:
    module, op, call, length, encoded, reads, writes = item
    positions = {name: _decode(groups[name].size, kind, data) for name, (kind, data) in encoded.items()}
    return Reduction(module, op, call, length, positions, tuple((n, d) for n, d in reads), tuple(writes))


def _encode(positions: Ints) -> tuple[str, list[Any]]:
    """Positions as [start, step between nodes, count, step inside a node] where they are regular."""
    nodes, count = positions.shape
    start = int(positions[0, 0])
    outer = int(positions[1, 0]) - start if nodes > 1 else 1
    inner = int(positions[0, 1]) - start if count > 1 else 1
    regular = start + outer * np.arange(nodes)[:, None] + inner * np.arange(count)[None, :]
    if np.array_equal(regular, positions):
        return "regular", [start, outer, count, inner]
    return "listed", positions.tolist()


def _decode(size: int, kind: str, data: list[Any]) -> Ints:
    if kind == "listed":
        return np.array(data, np.int64).reshape(size, -1)
    start, outer, count, inner = data
    positions: Ints = start + outer * np.arange(size)[:, None] + inner * np.arange(count)[None, :]
    return positions
