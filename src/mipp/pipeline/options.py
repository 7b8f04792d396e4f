"""The keyword arguments of `prune`, checked once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mipp.errors import MippError, quote
from mipp.pipeline.checks import check_option, check_seed, list_patterns
from mipp.plan.effort import Effort, effort_of
from mipp.refit.settings import Distillation, Refit
from mipp.runtime.paths import as_path
from mipp.runtime.settings import check_function

_RECORDED = ("exclude", "compensate", "recover", "device", "seed", "memory_limit", "effort")
_FUNCTIONS = {
    "evaluate": ("model",),
    "loss_fn": ("output", "labels"),
    "train": ("model", "fraction=...", "after_step=..."),
}
"""What each function is called with."""


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `prune`, which says what they mean.

    Raises:
        MippError: One is not of its type.
    """

    exclude: Sequence[str] = ()
    compensate: bool | Refit = True
    recover: Literal["distill"] | Distillation | None = None
    evaluate: Callable[[nn.Module], float | Mapping[str, float]] | None = None
    loss_fn: Callable[..., Tensor] | None = None
    train: Callable[..., None] | None = None
    device: torch.device | str | None = None
    seed: int = 0
    progress: bool = True
    checkpoint: str | Path | None = None
    memory_limit: int | str | None = None
    effort: Literal["fast", "default", "best"] = "default"

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", list_patterns(self.exclude))
        check_option("compensate", self.compensate, bool | Refit, "True, False, or mipp.Refit(...)")
        if self.recover is not None and self.recover != "distill" and not isinstance(self.recover, Distillation):
            raise MippError(
                f"recover={quote(self.recover)} is unknown; expected 'distill', mipp.Distillation(...), or None."
            )
        for name, arguments in _FUNCTIONS.items():
            if getattr(self, name) is not None:
                check_function(name, getattr(self, name), *arguments)
        check_option("device", self.device, torch.device | str, "a device of torch such as 'cuda'")
        check_option("progress", self.progress, bool | int, "True or False")
        check_seed(self.seed)
        effort_of(self.effort)
        if self.checkpoint is not None:
            as_path(self.checkpoint)

    @property
    def level(self) -> Effort:
        """The numbers that the level of effort stands for."""
        return effort_of(self.effort)

    @property
    def refit(self) -> Refit | None:
        """The settings of the refit; None for none."""
        if isinstance(self.compensate, Refit):
            return self.compensate
        return Refit() if self.compensate else None

    @property
    def distillation(self) -> Distillation | None:
        """The settings of the distillation; None for none."""
        return Distillation() if self.recover == "distill" else self.recover

    def record(self) -> dict[str, Any]:
        """Options that are not at their defaults and that the result depends on, for the record of the call."""
        defaults = {field.name: field.default for field in fields(self)}
        given = {name: getattr(self, name) for name in _RECORDED}
        return {name: value for name, value in given.items() if value not in (defaults[name], [])}
