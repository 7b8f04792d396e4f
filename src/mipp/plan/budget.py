"""Constraints on a pruned network."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args

from mipp.errors import InfeasibleBudgetError, quote
from mipp.plan.registry import CONSTRAINTS, Constraint
from mipp.runtime.settings import is_whole

if TYPE_CHECKING:
    from mipp.plan.cost import Cost

Runtime = Literal["torch", "onnxruntime"]


@dataclass(frozen=True)
class Budget:
    """Constraints on a pruned network, all at once. A float in (0, 1] is the fraction kept, an int is absolute.

    Attributes:
        macs: Multiply-accumulates per sample.
        params: Number of parameters.
        nodes: Nodes kept in all groups together.
        latency_ms: Median measured time of one forward pass over one calibration batch. An int or a float above 1 is in
            milliseconds; a float up to 1 is a fraction of the dense network's time, as for the others.
        activations: Bytes that activations of one sample take at their peak: of all ops, the one during which most is
            held for it and for later ones. What an op needs inside of it is not counted.
        widths: How many nodes particular groups keep, by name; the method then only chooses which ones.
        min_keep: At least this many nodes stay in every group; 0 allows groups to be emptied.
        round_to: Widths are multiples of this where possible.
        runtime: Where `latency_ms` is measured: "torch", or "onnxruntime" (on the CPU; needs the extra `export`).
        uniform: Groups of one kind (same size, names that differ only in numbers) get the same width.
    """

    macs: float | int | None = None
    params: float | int | None = None
    nodes: float | int | None = None
    latency_ms: float | int | None = None
    activations: float | int | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    min_keep: int = 1
    round_to: int = 1
    uniform: bool = False
    runtime: Runtime = "torch"

    def __post_init__(self) -> None:
        if not isinstance(self.uniform, bool):
            raise InfeasibleBudgetError(f"Budget(uniform={quote(self.uniform)}): expected True or False.")
        for name, constraint in CONSTRAINTS.items():
            object.__setattr__(self, name, _amount(constraint, getattr(self, name)))
        named = isinstance(self.widths, Mapping) and all(isinstance(name, str) for name in self.widths)
        if not named or not all(map(is_whole, self.widths.values())):
            raise InfeasibleBudgetError(
                f"Budget(widths={quote(self.widths)}): expected a dict such as {{'conv1': 8}}, of whole numbers."
            )
        if not (is_whole(self.min_keep) and is_whole(self.round_to)) or self.min_keep < 0 or self.round_to < 1:
            raise InfeasibleBudgetError(
                f"min_keep={quote(self.min_keep)} and round_to={quote(self.round_to)}; expected min_keep >= 0 and "
                "round_to >= 1."
            )
        if self.runtime not in get_args(Runtime):
            raise InfeasibleBudgetError(
                f"Budget(runtime={quote(self.runtime)}): expected one of {', '.join(get_args(Runtime))}."
            )
        plain = {"widths": {name: int(width) for name, width in self.widths.items()}}  # integers of NumPy are no JSON
        for name, value in {**plain, "min_keep": int(self.min_keep), "round_to": int(self.round_to)}.items():
            object.__setattr__(self, name, value)

    @property
    def has_target(self) -> bool:
        """True if anything says how small the network is to be."""
        return bool(self.widths or self.amounts)

    @property
    def amounts(self) -> dict[str, float | int]:
        """The amounts that are limited, by name of the constraint."""
        found = {name: getattr(self, name) for name in CONSTRAINTS}
        return {name: amount for name, amount in found.items() if amount is not None}

    @property
    def estimated(self) -> list[str]:
        """The limited constraints that hold for what is measured, and are estimated before."""
        return [name for name in self.amounts if CONSTRAINTS[name].is_estimated]

    def without(self, names: Iterable[str]) -> "Budget":
        """The same budget without some of the constraints."""
        nothing: dict[str, Any] = dict.fromkeys(names)
        return replace(self, **nothing)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {k: (dict(v) if k == "widths" else v) for k, v in vars(self).items() if v != getattr(Budget, k, {})}

    def limits(self, cost: "Cost") -> dict[str, float]:
        """Absolute limits of the constraints that `cost` knows, by name."""
        given = {name: amount for name, amount in self.amounts.items() if name in cost.quantities}
        share = {name: isinstance(amount, float) and amount <= 1 for name, amount in given.items()}
        return {n: amount * cost.dense(n) if share[n] else float(amount) for n, amount in given.items()}

    def ease(self, cost: "Cost", share: float) -> "Budget":
        """A budget on the way to this one: `share` of it on a logarithmic scale, from 0 (the dense network) to 1."""
        limits = {} if share == 1 else self.limits(cost)
        return replace(self, **{n: min(limit / cost.dense(n), 1.0) ** share for n, limit in limits.items()})


def _amount(constraint: Constraint, amount: Any) -> float | int | None:
    if amount is None:
        return None
    if is_whole(amount) and int(amount) > 0:
        return int(amount)
    most = 1 if constraint.is_whole else sys.float_info.max  # not infinity
    if isinstance(amount, Real) and not isinstance(amount, Integral) and 0 < float(amount) <= most:
        return float(amount)
    raise InfeasibleBudgetError(
        f"Budget({constraint.name}={quote(amount)}): expected a float in (0, 1] for the fraction kept, or a positive "
        "int for an absolute number."
    )
