"""One forward pass as a straight line of ATen ops.

A `TorchDispatchMode` under `torch.inference_mode` sees composite ops (`linear`, `chunk`, `flatten`) before they are
decomposed, so one tracer serves every model that runs: no export, no symbolic shapes, any Python in `forward`.
Ops without a rule are decomposed until one is known or nothing is left to decompose.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.frames import innermost_frame, line_of, module_in
from mipp.graph.hints import hint_at_code, hint_at_inputs
from mipp.graph.program import Op, Program, Ref, Value, guard
from mipp.graph.registry import has_rule
from mipp.graph.trees import leaves, map_tensors, results_in, tensors_in
from mipp.modules.cells import CELLS
from mipp.modules.copies import canonical_names, has_memory
from mipp.modules.recurrent import LAYERS
from mipp.runtime.mistakes import border, reraise_own
from mipp.runtime.onednn import faster

_ESCAPING_OPS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique"}
_SCATTERS = {
    torch.ops.aten.slice.Tensor: torch.ops.aten.slice_scatter.default,
    torch.ops.aten.select.int: torch.ops.aten.select_scatter.default,
}
"""Views that take a part of a tensor, and the ops that put what was written there into the whole."""
_NUMBERS = (Tensor.tolist, Tensor.numpy, Tensor.__array__)
_IN_OPS = {**CELLS, **LAYERS}
_SILENT_OPS = {
    torch.ops.prim.device.default,
    torch.ops.aten.is_floating_point.default,
    torch.ops.aten.is_complex.default,
}


@border
def call_op(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Calls an op of the model's. What it raises is the model's error; all else that is raised beside it is our own."""
    return func(*args, **kwargs)


class OpStream(TorchDispatchMode):
    """Hands every op of a forward pass to `on_op`, at the highest level that has a rule."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and importing torch._dynamo takes a second

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return self._dispatch(func, args, kwargs or {})
        except Exception as error:
            reraise_own(error)
            raise

    def _dispatch(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _SILENT_OPS:
            return call_op(func, args, kwargs)
        if func is torch.ops.aten.contiguous.default:  # the strides decide whether it is called
            out = call_op(func, args, kwargs)
            self.on_copy(args[0], out)
            return out
        if not self.stays_whole(func):
            with self, _unfuse_recurrence(func):
                out = call_op(_IN_OPS.get(func, func.decompose), args, kwargs)
            if out is not NotImplemented:
                return out
        return self.on_op(func, args, kwargs)

    def stays_whole(self, func: OpOverload) -> bool:
        """True if an op is not to be decomposed: it has a rule."""
        return has_rule(func)

    def on_op(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Executes the op and returns its result."""
        raise NotImplementedError

    def on_copy(self, tensor: Tensor, copied: Tensor) -> None:
        """Told of a copy that differs in nothing but strides."""


@contextmanager
def _unfuse_recurrence(func: OpOverload) -> Iterator[None]:
    """Recurrent layers over packed sequences run step by step, in ops that have rules, instead of in one kernel."""
    if func in LAYERS or func.overloadpacket.__name__ not in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        yield
        return
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


class _Recorder(OpStream):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.program = Program()
        self.modules: list[str] = [""]
        self._index: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._stale: set[int] = set()
        self._named = canonical_names(model)
        self._paths = {id(module): path for path, module in model.named_modules()}

    def add_inputs(self, call: Call) -> None:
        for tensor in call.tensors:
            self.program.inputs.append(self._add(tensor, Value(tuple(tensor.shape), "input", dtype=tensor.dtype)))

    def index_of(self, tensor: Tensor) -> int:
        index = self._index.get(tensor)
        if index is None:
            name, origin = self._named.get(id(tensor), ("", "constant"))
            index = self._add(tensor, Value(tuple(tensor.shape), origin, name, dtype=tensor.dtype))
            if origin == "constant":
                self.program.constants[index] = tensor
        return int(index)

    def on_op(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ref_args = map_tensors(args, lambda t: Ref(self.index_of(t)))
        ref_kwargs = {k: map_tensors(v, lambda t: Ref(self.index_of(t))) for k, v in kwargs.items()}
        memory = {_storage(t): self._base_of(t) for t in leaves((args, tuple(kwargs.values())), Tensor)}
        out = call_op(*faster(func, args), kwargs)
        if isinstance(out, Tensor) and id(out) in self._named and not func._schema.is_mutable:
            return out  # a parameter as it is, such as one that is cast to the type it has
        program, number = self.program, len(self.program.ops)
        frame = innermost_frame()
        source, holder = line_of(frame), self._holder(frame)
        op = Op(number, _functional(func), ref_args, ref_kwargs, (), self.modules[-1], source, holder)
        if self._stale.intersection(op.inputs):
            self.refuse(f"{op.name} at {source} reads a tensor that was changed in place through another one")
        chosen = op.name == "index" and any(self._branches_on_values(r) for r in op.args[1] if r is not None)
        if chosen or op.name in _ESCAPING_OPS:
            program.guards[number] = guard(out)
        if op.func._schema.is_mutable:
            self.refuse(f"{op.name} at {source} works in place only")
        if func._schema.is_mutable:
            self._mark_stale(func, args, kwargs)
        outputs = tuple(
            self._add(t, Value(tuple(t.shape), "op", "", number, t.dtype, memory.get(_storage(t), -1)))
            for t in leaves(out, Tensor)
        )
        program.ops.append(dataclasses.replace(op, outputs=outputs))
        if func._schema.is_mutable and op.args and isinstance(op.args[0], Ref) and len(outputs) == 1:
            self._write_through(op.args[0].index, outputs[0], source)
        return out

    def _write_through(self, changed: int, result: int, source: str) -> None:
        """Puts what was written into a slice into the tensor that it is a slice of, which is another value from now on.

        Args:
            changed: The slice before.
            result: The slice after.
            source: The line that wrote.
        """
        values, ops = self.program.values, self.program.ops
        slices: list[Op] = []
        while (maker := values[changed].producer) >= 0 and ops[maker].func in _SCATTERS:
            slices.append(ops[maker])
            changed = ops[maker].args[0].index
        root = changed if values[changed].base < 0 else values[changed].base
        if not slices or values[root].origin not in ("input", "op"):
            return
        if not any(self._index[t] == changed for t in list(self._index.keys())):  # nobody reads it any more
            return
        for taken in slices:
            x, *where = taken.args
            op = Op(len(ops), _SCATTERS[taken.func], (x, Ref(result), *where), {}, (), taken.module, source)
            result = len(values)
            values.append(dataclasses.replace(values[x.index], origin="op", name="", producer=op.index, base=root))
            ops.append(dataclasses.replace(op, outputs=(result,)))
            for tensor in [t for t in list(self._index.keys()) if self._index[t] == x.index]:
                self._index[tensor] = result

    def _holder(self, frame: FrameType | None) -> str:
        """Path of the module whose method stands in a frame, where that was not run as a module itself."""
        path = module_in(frame, self._paths)
        return path if path.startswith(f"{self.modules[-1]}." if self.modules[-1] else "") else ""

    def on_copy(self, tensor: Tensor, copied: Tensor) -> None:
        self._index[copied] = self.index_of(tensor)

    def _base_of(self, tensor: Tensor) -> int:
        """The value whose memory a tensor has."""
        index = self.index_of(tensor)
        base = self.program.values[index].base
        return index if base < 0 else base

    def is_computed(self, tensor: Tensor) -> bool:
        """True for an input, and for a value made from others."""
        return self.program.values[self.index_of(tensor)].origin in ("input", "op")

    def _add(self, tensor: Tensor, value: Value) -> int:
        index = len(self.program.values)
        self.program.values.append(value)
        self._index[tensor] = index
        return index

    def _mark_stale(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            target = args[position] if position < len(args) else kwargs.get(argument.name)
            if isinstance(target, Tensor) and has_memory(target):
                others = [t for t in list(self._index.keys()) if t is not target and _storage(t) == _storage(target)]
                self._stale.update(self._index[t] for t in others if _overlap(target, t))
                if self.program.values[self.index_of(target)].origin in ("parameter", "buffer", "constant"):
                    self.refuse(f"{func} changes a parameter, buffer or constant in place")

    def _branches_on_values(self, mask: Ref) -> bool:
        value = self.program.values[mask.index]
        return value.dtype == torch.bool and value.origin in ("op", "input")

    def refuse(self, reason: str) -> None:
        """Notes why running the ops again may differ from the model."""
        self.program.not_replayable = self.program.not_replayable or reason


class _Listed(TorchFunctionMode):
    """Sees lists and arrays of numbers that are taken out of tensors, which are no ops."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _NUMBERS and self._recorder.is_computed(args[0]):
            self._recorder.refuse(f"the code at {line_of(innermost_frame())} takes numbers out of a tensor")
        return call_op(func, args, kwargs or {})


def trace(model: nn.Module, call: Call) -> Program:
    """Runs `model` once and returns what it did; ops without a rule are decomposed where they can be.

    Args:
        model: A working copy in eval mode (see `working_copy`); hooks are added for the pass and removed again.
        call: What to call it with.

    Raises:
        UnsupportedModelError: The forward pass raised.
    """
    recorder = _Recorder(model)
    call = call.map(Tensor.clone)
    recorder.add_inputs(call)
    with module_stack(model, recorder.modules), recorder, _Listed(recorder):
        output = run(model, call)
    for tensor in results_in(output):
        recorder.program.outputs.append(recorder.index_of(tensor))
    return recorder.program


def forward(model: nn.Module, call: Call) -> Any:
    """Calls the model on copies of the tensors, in inference mode, on the unfused attention path.

    Raises:
        UnsupportedModelError: The call raised; the cause is chained.
    """
    return run(model, call.map(Tensor.clone))


def run(model: nn.Module, call: Call) -> Any:
    """Like `forward`, but on the tensors themselves: an op that works in place changes them."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode():
            return call(model)
    except (Exception, SystemExit) as error:  # sys.exit() in a forward pass ends no process of the caller's
        reraise_own(error)
        raise UnsupportedModelError(
            f"{type(model).__name__}.forward raised {type(error).__name__}: {error}. It was called with "
            f"{_describe(call)}; check that the model runs on such an input by itself."
            f"{hint_at_code(error)}{hint_at_inputs(model, call.tensors)}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _describe(call: Call) -> str:
    """The inputs of a call as words: the shapes of tensors, with the names of those given by name."""
    given = [str(tuple(t.shape)) for t in tensors_in(call.args)]
    given += [f"{name} {tuple(t.shape)}" for name, value in call.kwargs.items() for t in tensors_in(value)]
    return f"inputs of shape {', '.join(given)}" if given else "inputs without tensors"


def _overlap(changed: Tensor, other: Tensor) -> bool:
    """True if two tensors over one storage have an element in common."""
    if changed.element_size() != other.element_size():
        return True
    touched = torch.zeros(changed.untyped_storage().nbytes() // changed.element_size(), dtype=torch.bool)
    touched.as_strided(changed.shape, changed.stride(), changed.storage_offset()).fill_(True)
    return bool(touched.as_strided(other.shape, other.stride(), other.storage_offset()).any())


def _storage(tensor: Tensor) -> int:
    """The same number for tensors that share memory, on the meta device too; both must be alive."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _functional(func: OpOverload) -> OpOverload:
    name = func.overloadpacket.__name__
    if not func._schema.is_mutable or not name.endswith("_"):
        return func
    packet = getattr(getattr(torch.ops, func.namespace), name[:-1], None)
    overloads = packet.overloads() if packet is not None else []
    for overload in sorted(
        overloads, key=lambda other: other != func._overloadname
    ):  # pow_.Scalar is pow.Tensor_Scalar
        twin: OpOverload = getattr(packet, overload)
        if _types(twin) == _types(func):
            return twin
    return func


def _types(func: OpOverload) -> list[str]:
    return [str(argument.type) for argument in func._schema.arguments]


@contextmanager
def module_stack(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keeps the path of the module that is running on top of `stack`."""

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # a script module accepts no hooks
            continue
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
