"""Schedules: to which budgets a training prunes, and when."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from mipp.errors import MippError, quote
from mipp.plan.budget import Budget
from mipp.runtime.settings import is_whole

Unit = Literal["steps", "epochs"]


@dataclass(frozen=True, init=False)
class Schedule:
    """Budgets that a training is pruned to one after the other.

    >>> mipp.Schedule(macs=[0.9, 0.75, 0.5], every=500)  # after 500, 1,000 and 1,500 steps of the optimiser
    >>> mipp.Schedule(params=[0.8, 0.6], every=2, unit="epochs", first=5, round_to=8)  # after epochs 5 and 7

    Attributes:
        budgets: One for each round. Fractions are of the first model, not of the one that a round begins with.
        every: Steps, or epochs, from one round to the next.
        unit: "steps" (of the optimiser) or "epochs".
        first: Steps, or epochs, before the first round; by default `every`.
    """

    budgets: tuple[Budget, ...]
    every: int
    unit: Unit
    first: int

    def __init__(self, *, every: int, unit: Unit = "steps", first: int | None = None, **budget: Any) -> None:
        """Makes a schedule.

        Args:
            every: As the attribute.
            unit: As the attribute.
            first: As the attribute.
            budget: Arguments of `mipp.Budget`: a list holds one value for each round, anything else is for all.

        Raises:
            MippError: No argument is a list, the lists differ in length, or one of the others is out of range.
        """
        first = every if first is None else first
        if unit not in get_args(Unit) or not (_is_count(every) and _is_count(first)):
            raise MippError(
                f"Schedule(every={quote(every)}, unit={quote(unit)}, first={quote(first)}): expected whole numbers "
                "of 1 or more, and "
                "'steps' or 'epochs'."
            )
        known = [field.name for field in fields(Budget)]
        if unknown := sorted(budget.keys() - set(known)):
            raise MippError(f"Schedule has no argument {', '.join(unknown)}; expected those of Budget.")
        lengths = {len(value) for value in budget.values() if isinstance(value, list | tuple)}
        if len(lengths) != 1 or 0 in lengths:
            raise MippError(
                f"A schedule with lists of lengths {sorted(lengths)}: expected one value for each round, such as "
                "Schedule(macs=[0.9, 0.75, 0.5], every=500)."
            )
        rounds = [
            {k: v[number] if isinstance(v, list | tuple) else v for k, v in budget.items()}
            for number in range(lengths.pop())
        ]
        made = {"budgets": tuple(Budget(**one) for one in rounds), "every": every, "unit": unit, "first": first}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def is_due(self, done: int, count: int) -> bool:
        """True if another round is due.

        Args:
            done: Rounds so far.
            count: Steps, or epochs, so far.
        """
        return done < len(self.budgets) and count >= self.first + done * self.every

    def budget(self, done: int, reached: dict[str, float]) -> Budget:
        """The budget of the next round, in fractions of the model that it begins with.

        Args:
            done: Rounds so far.
            reached: Fractions of the first model that earlier rounds left, by name of the constraint.
        """
        wanted = self.budgets[done]
        shares = {
            name: min(amount / reached.get(name, 1.0), 1.0)
            for name, amount in wanted.amounts.items()
            if isinstance(amount, float) and amount <= 1
        }
        return replace(wanted, **shares)  # type: ignore[arg-type]


def _is_count(value: Any) -> bool:
    return is_whole(value) and int(value) >= 1
