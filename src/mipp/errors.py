"""The errors of the library: what was found, what was expected, how to go on."""

from collections.abc import Iterable
from typing import Any

_LONGEST = 200
"""Characters that a message repeats of what it was given."""


class MippError(Exception):
    """Base of every error that `mipp` raises on purpose."""


class InternalError(Exception):
    """A mistake of the library's own code: nothing that a caller could mend, so it is no `MippError`.

    No `RuntimeError` either, as which torch's ops refuse what a caller gave them.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(
            f"mipp failed in its own code ({type(cause).__name__}: {cause}); this is no fault of the model. Please "
            "report it with the traceback above and, if you can, the model's class."
        )


class UnsupportedModelError(MippError):
    """The model cannot be traced, or nothing in it can be pruned."""


class CalibrationError(MippError):
    """The calibration data are empty, of the wrong form, or make the model produce non-finite values."""


class InfeasibleBudgetError(MippError):
    """No plan can meet the budget; the message names the smallest value that can be met."""


class MissingRequirementError(MippError):
    """A method needs labels, a loss, a training function or a package that was not given."""


class PlanMismatchError(MippError):
    """A plan or a saved folder does not belong to the model it is applied to."""


class CheckpointError(PlanMismatchError):
    """A checkpoint folder belongs to another run, is in use by another process, or is damaged."""


def quote(value: Any) -> str:
    """The `repr` of what was given, for a message: its first 200 characters at most."""
    try:
        return clip(repr(value[:_LONGEST] if type(value) in (str, bytes, list, tuple) else value))
    except Exception:  # a number of thousands of digits, or an object that fails to describe itself
        return f"a {type(value).__name__} that cannot be written out"


def clip(text: str) -> str:
    """A text that was given, for a message: its first 200 characters at most."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def amount(value: float) -> str:
    """A number for a message: whole from 1,000 on, below with six digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def few(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class RankError(MippError):
    """Another of the processes that prune together failed, has ended, or does something else."""
