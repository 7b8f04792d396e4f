"""The descent of the distillation: Adam with a warm-up, a half cosine, and checks on held-out data.

Steps add up in float32 where weights have 16 bits: most are smaller than half of the distance between two numbers of 16
bits, and would be rounded away one by one.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

_CHECKS = (0.2, 0.4, 0.6, 0.8)  # of the time or passes; one more is at the end
_BACK = 0.3


@dataclass
class Descent(Generic[T]):
    """One training of some parameters, in place.

    Attributes:
        parameters: What learns.
        learning_rate: Peak learning rate. It rises over the first tenth of the time or passes, whichever is further
            along, and falls to zero along a half cosine.
        start: When the time began, on the monotonic clock.
        seconds: What it may take.
        steps: How many there are in all passes.
        loss: The loss of an item; None or without gradients where nothing that can learn has a part in it.
        check: Called at a fifth, two, three and four fifths, and at the end; keeps the weights if they are better than
            any before, and says whether they are.
        go_back: Gives the parameters the best values so far. Training goes on from there, with smaller steps.
        after_step: Called after each step.
    """

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    start: float
    seconds: float
    steps: int
    loss: Callable[[T], Tensor | None]
    check: Callable[[], bool]
    go_back: Callable[[], None]
    after_step: Callable[[], None] = lambda: None

    def run(self, epochs: Iterable[Iterator[T]]) -> None:
        """Takes steps until the passes or the time are over."""
        step, checks = 0, list(_CHECKS)
        self._learn_at(self.learning_rate)
        for items in epochs:
            for item in items:
                share = self._share(step)
                if share >= 1:
                    break
                self._step(item, share)
                step += 1
                if checks and share >= checks[0]:
                    checks = checks[1:]
                    if not self.check():
                        self.go_back()
                        self._learn_at(_BACK * self.learning_rate)
            else:
                continue
            break
        self.check()

    def _share(self, step: int) -> float:
        """The part that is done; the clock counts only where it is ahead of the steps."""
        share, over = step / self.steps, (time.monotonic() - self.start) / max(self.seconds, 1e-9)
        return share if over <= (step + 1) / self.steps else over

    def _learn_at(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self._sums = [_in_full(parameter) for parameter in self.parameters]
        self._optimiser = torch.optim.Adam(self._sums)

    def _step(self, item: T, share: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self.learning_rate * min(share / 0.1, 0.5 + 0.5 * math.cos(math.pi * share))
        with torch.enable_grad():
            loss = self.loss(item)
        if loss is None or not loss.requires_grad:
            return
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        rounded = [pair for pair in zip(self._sums, self.parameters, strict=True) if pair[0] is not pair[1]]
        for own, parameter in rounded:
            own.grad = None if parameter.grad is None else parameter.grad.to(own.dtype)
        self._optimiser.step()
        with torch.no_grad():
            for own, parameter in rounded:
                parameter.copy_(own)
            self.after_step()


def _in_full(parameter: nn.Parameter) -> Tensor:
    """The tensor that steps are added to: the parameter itself, or a copy in float32 of one of fewer bits."""
    few = torch.finfo(parameter.dtype).bits < 32
    return parameter.detach().float() if few else parameter
