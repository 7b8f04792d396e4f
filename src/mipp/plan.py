"""What stays: budgets, how many nodes each group keeps under them, and the plan that says which."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mipp.cost import Cost, Floats
from mipp.errors import InfeasibleBudgetError, MippError, PlanMismatchError
from mipp.graph.groups import NodeGroup, ParamSlice, PruningGraph, Size
from mipp.selection import Elimination

FORMAT = "mipp-plan-1"
Unit = Literal["cost", "node"]
LatencyOf = Callable[[Mapping[str, int]], float]


@dataclass(frozen=True)
class Budget:
    """What must hold after pruning. A float in (0, 1] is the fraction kept, an int is absolute; all must hold at once.

    Attributes:
        macs: Multiply-accumulates per sample.
        params: Number of parameters.
        nodes: Nodes kept in all groups together.
        latency_ms: Median measured time of one forward pass over one calibration batch; a float above 1 is in
            milliseconds too.
        widths: Nodes to keep in single groups, by name; only their identity is then chosen.
        min_keep: Nodes that stay in every group; 0 lets groups be emptied.
        round_to: Widths are multiples of this where possible.
        uniform: Groups of one kind (same size, same name but for numbers) get the same width.
    """

    macs: float | int | None = None
    params: float | int | None = None
    nodes: float | int | None = None
    latency_ms: float | int | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    min_keep: int = 1
    round_to: int = 1
    uniform: bool = False

    def __post_init__(self) -> None:
        for name in ("macs", "params", "nodes", "latency_ms"):
            _check_amount(name, getattr(self, name))
        if self.min_keep < 0 or self.round_to < 1:
            raise InfeasibleBudgetError(
                f"min_keep={self.min_keep} and round_to={self.round_to}; expected min_keep >= 0 and round_to >= 1."
            )

    @property
    def has_target(self) -> bool:
        """Whether anything says how small the network is to be."""
        return bool(self.widths) or any(v is not None for v in (self.macs, self.params, self.nodes, self.latency_ms))

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {k: (dict(v) if k == "widths" else v) for k, v in vars(self).items() if v != getattr(Budget, k, {})}

    def limits(self, cost: Cost) -> dict[str, float]:
        """Absolute limits of the constraints that `cost` knows, by name."""
        amounts = {name: getattr(self, name) for name in cost.quantities}
        return {n: a * cost.dense(n) if isinstance(a, float) else float(a) for n, a in amounts.items() if a is not None}


@dataclass(frozen=True, eq=False)
class PruningPlan:
    """Which nodes stay, and where they live: plain data that can be saved, replayed and edited.

    Attributes:
        kept: Indices of the nodes that stay, by group, ascending.
        groups: The node groups the indices refer to.
        tensors: Shape of every parameter and buffer of the model the plan was made for.
        attributes: Module attributes that count nodes.
        method: `repr` of the method that made it.
        budget: What had to hold.
        information: Nats that the removed nodes took with them, and nats of the whole group, where the method knows.
    """

    kept: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, NodeGroup]
    tensors: Mapping[str, tuple[int, ...]]
    attributes: Mapping[tuple[str, str], Size] = field(default_factory=dict)
    method: str = ""
    budget: Mapping[str, Any] = field(default_factory=dict)
    information: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, nodes in self.kept.items():
            group = _known(name, self.groups, "group")
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
            _known(name, graph.groups, "group")
        full = {name: tuple(sorted(kept.get(name, range(group.size)))) for name, group in graph.groups.items()}
        return cls(full, graph.groups, shapes(model), graph.attributes, method, budget)

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
            "groups": {g.name: _group_to_dict(g) for g in self.groups.values()},
            "attributes": [[*key, size.fixed, dict(size.per_node)] for key, size in self.attributes.items()],
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
                {str(n): tuple(int(i) for i in nodes) for n, nodes in data["kept"].items()},
                groups,
                {n: tuple(shape) for n, shape in data["tensors"].items()},
                {(m, a): Size(fixed, per_node) for m, a, fixed, per_node in data["attributes"]},
                data["method"],
                data["budget"],
                {n: (float(lost), float(whole)) for n, (lost, whole) in data["information"].items()},
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
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PlanMismatchError(f"{path} is not readable as JSON ({error}); it is damaged or not a plan.") from error


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer of a model by name."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tuple(t.shape) for name, t in named}


@dataclass(frozen=True)
class Allocation:
    """How many nodes every group keeps.

    Attributes:
        widths: Nodes kept, by group.
        price: Information (nats) per unit of the tightest constraint at which the removals stopped.
        slack: Limit minus value, as a fraction of the limit, by constraint.
    """

    widths: dict[str, int]
    price: float
    slack: dict[str, float]


def allocate(
    eliminations: Mapping[str, Elimination], cost: Cost, budget: Budget, unit: Unit = "cost", latency: LatencyOf | None = None
) -> Allocation:
    """Spreads a budget over the groups at one price.

    The next node to go is always the one that loses least information per unit of the most violated constraint,
    re-evaluated at the current widths, until every constraint holds; then nodes are given back, most informative first,
    while all still hold.

    Args:
        eliminations: Order and loss of the removals, by group.
        cost: The cost functions.
        budget: What must hold.
        unit: "node" prices every node alike, for scores that are not information.
        latency: Measures a network of the given widths; needed for `latency_ms`.

    Raises:
        InfeasibleBudgetError: Even the smallest network the budget allows is too large.
    """
    if budget.latency_ms is None:
        return _Allocator(eliminations, cost, budget, unit).run(budget.limits(cost))
    if latency is None:
        raise InfeasibleBudgetError("A latency budget needs a measured network; use mipp.prune.")
    return _within_latency(eliminations, cost, budget, unit, latency)


class _Allocator:
    """State of one allocation: the current widths and what the next removal of each mover would lose."""

    def __init__(self, eliminations: Mapping[str, Elimination], cost: Cost, budget: Budget, unit: Unit) -> None:
        self.cost, self.budget, self.unit = cost, budget, unit
        self.widths = cost.sizes.copy()
        self.slopes = [_convex_slopes(eliminations[name].loss) for name in cost.groups]
        for name, width in budget.widths.items():
            size = int(cost.sizes[cost.groups.index(_known(name, {n: n for n in cost.groups}, "group"))])
            if not 0 <= width <= size:
                raise InfeasibleBudgetError(f"widths asks for {width} nodes of group '{name}', which has {size}.")
            self.widths[cost.groups.index(name)] = width
        free = [i for i, name in enumerate(cost.groups) if name not in budget.widths]
        self.movers = _kinds(free, cost) if budget.uniform else [[i] for i in free]

    def run(self, limits: Mapping[str, float]) -> Allocation:
        price = 0.0
        while over := {n: v / limits[n] for n, v in self._values(limits).items() if v > limits[n] * (1 + 1e-12)}:
            price = self._remove(max(over, key=lambda n: over[n]), limits)
        while self._give_back(limits):
            pass
        slack = {n: (limits[n] - v) / max(limits[n], 1e-300) for n, v in self._values(limits).items()}
        return Allocation({n: int(w) for n, w in zip(self.cost.groups, self.widths, strict=True)}, price, slack)

    def _values(self, limits: Mapping[str, float]) -> dict[str, float]:
        return {n: self._value(n, self.widths) for n in limits}

    def _value(self, constraint: str, widths: Floats) -> float:
        present = widths if constraint == "nodes" else np.maximum(widths, 1)
        return self.cost.quantities[constraint](present)

    def _remove(self, constraint: str, limits: Mapping[str, float]) -> float:
        present = self.widths if constraint == "nodes" else np.maximum(self.widths, 1)
        unit_cost = self.cost.quantities[constraint].per_group(present)
        best, best_price = -1, np.inf
        for index, mover in enumerate(self.movers):
            step = self._step_down(mover[0])
            if step == 0:
                continue
            saved = sum(unit_cost[g] * step for g in mover)
            if constraint != "nodes" and self.widths[mover[0]] <= 1:
                saved = 0.0
            lost = sum(self._lost(g, step) for g in mover)
            price = (lost / step / len(mover) if self.unit == "node" else lost / saved) if saved > 0 else np.inf
            if price < best_price:
                best, best_price = index, price
        if best < 0:
            raise self._infeasible(constraint, limits)
        step = self._step_down(self.movers[best][0])
        self.widths[self.movers[best]] -= step
        return float(best_price * limits[constraint])

    def _give_back(self, limits: Mapping[str, float]) -> bool:
        gains: list[tuple[float, int]] = []
        for index, mover in enumerate(self.movers):
            step = self._step_up(mover[0])
            if step:
                gains.append((-sum(self._lost(g, -step) for g in mover), index))
        for _, index in sorted(gains):
            mover = self.movers[index]
            more = self.widths.copy()
            more[mover] += self._step_up(mover[0])
            if all(self._value(n, more) <= limit * (1 + 1e-12) for n, limit in limits.items()):
                self.widths = more
                return True
        return False

    def _lost(self, group: int, step: int) -> float:
        removed = int(self.cost.sizes[group] - self.widths[group])
        span = self.slopes[group][removed : removed + step] if step > 0 else self.slopes[group][removed + step : removed]
        return float(span.sum())

    def _step_down(self, group: int) -> int:
        width, size, round_to = int(self.widths[group]), int(self.cost.sizes[group]), self.budget.round_to
        multiple = round_to if size >= round_to else 1
        step = width % multiple or multiple
        return step if width - step >= min(self.budget.min_keep, size) else 0

    def _step_up(self, group: int) -> int:
        width, size, round_to = int(self.widths[group]), int(self.cost.sizes[group]), self.budget.round_to
        multiple = round_to if size >= round_to else 1
        step = min(multiple, size - width)
        return step

    def _infeasible(self, constraint: str, limits: Mapping[str, float]) -> InfeasibleBudgetError:
        smallest, dense = self._value(constraint, self.widths), self.cost.dense(constraint)
        return InfeasibleBudgetError(
            f"The budget asks for at most {limits[constraint]:,.0f} {constraint}, but {len(self.cost.groups)} groups with "
            f"min_keep={self.budget.min_keep} and round_to={self.budget.round_to} need at least {smallest:,.0f} of "
            f"{dense:,.0f}; raise {constraint} to {_rounded_up(smallest / dense)} or more, or allow fewer frozen layers."
        )


def _within_latency(
    eliminations: Mapping[str, Elimination], cost: Cost, budget: Budget, unit: Unit, latency: LatencyOf
) -> Allocation:
    """Bisects the MACs until the measured latency fits."""
    amount = budget.latency_ms
    assert amount is not None
    whole = {name: int(s) for name, s in zip(cost.groups, cost.sizes, strict=True)}
    limit = amount * latency(whole) if isinstance(amount, float) and amount <= 1 else float(amount)
    others = budget.limits(cost)
    low, high, found = 0.0, 1.0, None
    for step in range(10):
        fraction = 0.5 * (low + high) if step else 1.0
        macs = min(others.get("macs", np.inf), fraction * cost.dense("macs"))
        try:
            allocation = _Allocator(eliminations, cost, budget, unit).run({**others, "macs": macs})
        except InfeasibleBudgetError:
            low = fraction
            continue
        reached = latency(allocation.widths)
        if reached <= limit:
            low, found = fraction, replace(allocation, slack={**allocation.slack, "latency_ms": (limit - reached) / limit})
            if step == 0:
                break
        else:
            high = fraction
    if found is None:
        raise InfeasibleBudgetError(
            f"No width reaches {limit:.3f} ms on this machine; the smallest network tried is slower. Raise latency_ms."
        )
    return found


def _convex_slopes(loss: Sequence[float]) -> Floats:
    """Slopes of the greatest convex function below the loss: what the next removals cost on average (PAVA)."""
    blocks: list[list[float]] = []
    for step in np.diff(np.asarray(loss)):
        blocks.append([float(step), 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    return np.repeat([b[0] / b[1] for b in blocks], [int(b[1]) for b in blocks]) if blocks else np.empty(0)


def _kinds(free: Sequence[int], cost: Cost) -> list[list[int]]:
    kinds: dict[tuple[str, float], list[int]] = {}
    for index in free:
        kinds.setdefault((re.sub(r"\d+", "*", cost.groups[index]), float(cost.sizes[index])), []).append(index)
    return list(kinds.values())


def _check_amount(name: str, amount: Any) -> None:
    if amount is None or (isinstance(amount, int) and not isinstance(amount, bool) and amount > 0):
        return
    if isinstance(amount, float) and (0 < amount <= 1 or (name == "latency_ms" and amount > 0)):
        return
    raise InfeasibleBudgetError(
        f"Budget({name}={amount!r}): expected a float in (0, 1] for the fraction kept or a positive int for an absolute "
        "number."
    )


def _rounded_up(fraction: float) -> str:
    return f"{np.ceil(fraction * 1000 + 1e-9) / 1000:.3f}"


def _known(name: str, names: Mapping[str, Any], what: str) -> Any:
    if name in names:
        return names[name]
    near = get_close_matches(name, names, 1)
    hint = f" Did you mean '{near[0]}'?" if near else f" There are {len(names)}: {', '.join(list(names)[:6])} ..."
    raise MippError(f"There is no {what} '{name}'.{hint}")


def _group_to_dict(group: NodeGroup) -> dict[str, Any]:
    slices = [[s.tensor, s.axis, s.reads, *_encoded(s.positions)] for s in group.slices]
    return {"size": group.size, "slices": slices}


def _group_from_dict(name: str, item: Mapping[str, Any], first_node: int) -> NodeGroup:
    size = int(item["size"])
    slices = tuple(ParamSlice(t, axis, _decoded(size, kind, data), reads) for t, axis, reads, kind, data in item["slices"])
    return NodeGroup(name, size, slices, first_node)


def _encoded(positions: NDArray[np.int64]) -> tuple[str, list[Any]]:
    """Positions as [start, step between nodes, count, step inside a node] where they are regular."""
    nodes, count = positions.shape
    start = int(positions[0, 0])
    outer = int(positions[1, 0]) - start if nodes > 1 else 1
    inner = int(positions[0, 1]) - start if count > 1 else 1
    regular = start + outer * np.arange(nodes)[:, None] + inner * np.arange(count)[None, :]
    if np.array_equal(regular, positions):
        return "regular", [start, outer, count, inner]
    return "listed", positions.tolist()


def _decoded(size: int, kind: str, data: list[Any]) -> NDArray[np.int64]:
    if kind == "listed":
        return np.array(data, np.int64).reshape(size, -1)
    start, outer, count, inner = data
    return start + outer * np.arange(size)[:, None] + inner * np.arange(count)[None, :]
