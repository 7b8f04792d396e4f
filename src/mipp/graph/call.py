"""One call of a model: on what, and how."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.graph.trees import cut, map_tensors, plain_in, tensors_in
from mipp.runtime.default_device import callers_default_device
from mipp.runtime.mistakes import border


@dataclass(frozen=True)
class Call:
    """One call of a model: `model(*args, **kwargs)`, or `how(model, ...)` where a function says how to call it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    how: Callable[..., Any] | None = None

    @property
    def tensors(self) -> list[Tensor]:
        return tensors_in((self.args, self.kwargs))

    @property
    def samples(self) -> int:
        """Length of the first dimension of the first tensor that has one, else 1."""
        return next((t.shape[0] for t in self.tensors if t.ndim), 1)

    @property
    def form(self) -> Hashable:
        """The structure of a call, on which a traced program depends besides the values of its tensors."""
        return tuple(tuple(t.shape) for t in self.tensors), plain_in((self.args, dict(self.kwargs)))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Call":
        """The same call on changed tensors."""
        return Call(map_tensors(self.args, function), map_tensors(dict(self.kwargs), function), self.how)

    def part(self, start: int, stop: int) -> "Call":
        """The same call on some of the samples."""
        return self._cut(slice(start, stop))

    def pick(self, places: NDArray[np.int64]) -> "Call":
        """The same call on the samples at some places."""
        return self._cut(places)

    def _cut(self, chosen: slice | NDArray[np.int64]) -> "Call":
        args, kwargs = cut((self.args, dict(self.kwargs)), self.samples, chosen)
        return Call(args, kwargs, self.how)

    @border
    def __call__(self, model: nn.Module) -> Any:
        with callers_default_device():
            how = self.how or type(model).__call__
            return how(model, *self.args, **self.kwargs)
