"""A pass in a wider type through a model of fewer digits, of which no copy is made: weights are cast op by op."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from mipp.graph.call import Call
from mipp.graph.trace import call_op, run
from mipp.graph.trees import map_tensors

Kinds = Mapping[torch.dtype, torch.dtype]
_DOUBLE: Kinds = {
    torch.float32: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
_SINGLE: Kinds = {
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.complex32: torch.complex64,
}


def forward_in_double(model: nn.Module, call: Call) -> Any:
    """Calls the model in inference mode; whatever type its code asks for, all is computed in float64.

    Raises:
        UnsupportedModelError: The call raised; the cause is chained. Recurrent layers refuse inputs of another type.
    """
    return _forward(model, call, _DOUBLE)


def forward_in_single(model: nn.Module, call: Call) -> Any:
    """The same in float32, where the model has 16 bits."""
    return _forward(model, call, _SINGLE)


def _forward(model: nn.Module, call: Call, kinds: Kinds) -> Any:
    with _Widened(model, kinds):
        return run(model, call.map(lambda tensor: _widen(tensor.clone(), kinds)))


class _Widened(TorchDispatchMode):
    """Runs every op on tensors of wider types.

    Parameters are cast anew for each op. Of other tensors that the model holds one copy serves the whole pass, so that
    what is written to it is read again.
    """

    def __init__(self, model: nn.Module, kinds: Kinds) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kinds = kinds
        self._parameters = {id(p) for p in model.parameters()}
        self._wide: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = call_op(func, self._map(args), self._map(kwargs or {}))
        return map_tensors(out, lambda tensor: _widen(tensor, self._kinds))

    def _map(self, tree: Any) -> Any:
        if isinstance(tree, torch.dtype):
            return self._kinds.get(tree, tree)
        if isinstance(tree, Tensor):
            return self._as_wide(tree)
        if isinstance(tree, tuple | list):
            return type(tree)(self._map(item) for item in tree)
        if isinstance(tree, dict):
            return {key: self._map(value) for key, value in tree.items()}
        return tree

    def _as_wide(self, tensor: Tensor) -> Tensor:
        if tensor.dtype not in self._kinds:
            return tensor
        if id(tensor) in self._parameters:
            return _widen(tensor, self._kinds)
        if tensor not in self._wide:
            self._wide[tensor] = _widen(tensor, self._kinds)
        wide: Tensor = self._wide[tensor]
        return wide


def _widen(tensor: Tensor, kinds: Kinds) -> Tensor:
    return tensor.to(kinds.get(tensor.dtype, tensor.dtype))
