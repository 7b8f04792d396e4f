"""Settings of the distillation, and its descent: Adam with a warm-up, a half cosine, and checks on held-out data."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from mipp.errors import MippError

T = TypeVar("T")

_CHECKS = (0.2, 0.4, 0.6, 0.8)  # of the time or passes; one more is at the end
_BACK = 0.3


@dataclass(frozen=True)
class Distillation:
    """Duration, learning rate and reach of the distillation.

    Attributes:
        seconds: Time limit; training stops early enough for the final check.
        epochs: Stops after this many passes over the calibration data.
        batch_size: Samples in a step, at most.
        learning_rate: Peak learning rate of Adam. It rises over the first tenth of the time or passes, whichever is
            further along, and falls to zero along a half cosine. If a check finds the network worse than before,
            training goes on from the best weights at three tenths of this rate.
        by: "network" trains all weights together. "blocks" trains region after region of the network (a residual block,
            half a transformer layer) from what the pruned network feeds it to what the dense one wrote, with the
            gradients and the optimiser of one region in memory at a time; seconds and epochs are then those of all
            regions and of each. None takes blocks where the memory limit does not hold the gradients and activations
            of the whole network.
    """

    seconds: float = 60.0
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 3e-3
    by: Literal["network", "blocks"] | None = None

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.learning_rate > 0) or self.epochs < 0 or self.batch_size < 1:
            raise MippError(
                f"Distillation(seconds={self.seconds}, epochs={self.epochs}, batch_size={self.batch_size}, "
                f"learning_rate={self.learning_rate}): expected seconds and learning_rate to be positive, epochs of 0 "
                "or more, and at least one sample in a batch."
            )
        if self.by not in (None, "network", "blocks"):
            raise MippError(f"Distillation(by={self.by!r}): expected 'network', 'blocks', or None.")


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
        self.learning_rate, self._optimiser = learning_rate, torch.optim.Adam(self.parameters)

    def _step(self, item: T, share: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self.learning_rate * min(share / 0.1, 0.5 + 0.5 * math.cos(math.pi * share))
        with torch.enable_grad():
            loss = self.loss(item)
        if loss is None or not loss.requires_grad:
            return
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        with torch.no_grad():
            self.after_step()
