"""A recurrence as a whole: its weights by least squares through all its steps.

The fits of single weights take the states as they are, although these move with the weights. To first order the states
of all steps are linear in the weights, so that the change that brings them closest to the dense ones is a problem of
least squares, too (Gauss-Newton). It is never written down: conjugate gradients need its products forwards, which a
difference of two runs gives, and backwards, which are gradients. Samples held out say whether a change stays.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mipp.graph.layers import channel_dim, input_of
from mipp.graph.nodes import Site
from mipp.graph.program import Op, StrayedError
from mipp.runtime.distributed import gather, sum_shards
from mipp.runtime.tensor_store import Stored
from mipp.statistics.unfolding import kernel_positions, patches_of, places_of_weight

if TYPE_CHECKING:
    from mipp.refit.unrolled import Unrolled

_TURNS = 8  # of conjugate gradients in a round
_DAMPING = 1e-2  # relative to the mean second moment of the inputs
_STEP = 3e-3  # by which states move where a difference stands in for a derivative, relative
_SHARES = (1.0, 0.25)  # of a change that are tried
_ROWS = 64  # positions of a map by which the moments of inputs are taken

Vector = list[Tensor]
"""A number for each weight, tensor by tensor."""


@dataclass
class Learner:
    """A weight that is fitted.

    Attributes:
        site: One of its uses.
        weight: Its tensor in the cut model, which is changed in place.
        bias: What takes the offset, None if nothing does.
        silent: Inputs that stay without weight, in the order of `patches_of`.
    """

    site: Site
    weight: Tensor
    bias: Tensor | None
    silent: Tensor
    _factor: Tensor = field(default_factory=lambda: torch.empty(0))
    _second: Tensor = field(default_factory=lambda: torch.empty(0))
    _felt: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def tensors(self) -> Vector:
        """The weight and the bias."""
        return [self.weight, *([self.bias] if self.bias is not None else [])]

    def rows(self, op: Op, x: Tensor, limit: int | None = None) -> Tensor:
        """The inputs of one use, with a column of ones for the bias; shape [rows, inputs]."""
        arguments = {**op.arguments, "input": x, "weight": self.site.swap_axes(self.weight)}
        rows = patches_of(self.site, arguments, limit)[0]
        return rows if self.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], 1)

    def moments(self, op: Op, x: Tensor) -> Tensor:
        """The sum over the rows of one use of the products of inputs, from some rows; shape [inputs, inputs]."""
        rows = self.rows(op, x, _ROWS)
        positions = x[0].numel() // x.shape[channel_dim(op)]
        return rows.mT @ rows * max(positions / _ROWS, 1.0)

    def scale(self, second: Tensor, felt: Tensor) -> None:
        """Takes in what steps are measured by.

        Args:
            second: Sum over rows of the products of inputs, shape [inputs, inputs].
            felt: Sum over rows and inputs of their squares, each times that of the derivative of the states by each
                output; shape [outputs].
        """
        second = second.double()
        unit = second.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        self._second = second + _DAMPING * unit * torch.eye(len(second), dtype=second.dtype, device=second.device)
        self._factor = torch.linalg.cholesky(self._second)
        felt = felt.double() / (unit * len(second))
        self._felt = felt + 1e-3 * felt.mean() + torch.finfo(torch.float32).tiny
        self._unit = unit

    def precondition(self, vector: Vector) -> Vector:
        """The step that the inputs' moments alone would take along a gradient."""
        return self._split(torch.cholesky_solve(self.joined(vector), self._factor) / self._felt)

    def damp(self, vector: Vector) -> Vector:
        """The part of the penalty in the product of a vector with the normal matrix."""
        return self._split(_DAMPING * self._unit * self._felt * self.joined(vector))

    def length(self, vector: Vector) -> float:
        """The squared distance that the states would move, were they to feel each step alone."""
        joined = self.joined(vector)
        return float((self._felt * joined * (self._second @ joined)).sum())

    def joined(self, vector: Vector) -> Tensor:
        """A vector: the weight's part in the order of `rows`, with the bias's below; shape [inputs, outputs]."""
        weight = self.site.swap_axes(vector[0]).double()
        joined, kernel = weight.flatten(1).mT.clone(), kernel_positions(weight)
        if kernel > 1:
            joined = joined[places_of_weight(kernel, weight.shape[1]).argsort().to(joined.device)]
        joined[self.silent] = 0
        return joined if self.bias is None else torch.cat([joined, vector[1].double()[None]])

    def _split(self, joined: Tensor) -> Vector:
        weight = self.site.swap_axes(self.weight)
        rows, kernel = joined[: weight[0].numel()].clone(), kernel_positions(weight)
        rows[self.silent] = 0
        if kernel > 1:
            rows = rows[places_of_weight(kernel, weight.shape[1]).to(rows.device)]
        own = self.site.swap_axes(rows.mT.reshape(weight.shape)).to(self.weight.dtype)
        return [own, *([joined[-1].to(self.bias.dtype)] if self.bias is not None else [])]


class ThroughTime:
    """Fits the weights of one recurrence.

    Args:
        learners: Its weights.
        unrolled: Its steps, with the uses of the same weights.
    """

    def __init__(self, learners: Sequence[Learner], unrolled: "Unrolled") -> None:
        self.learners, self.unrolled = learners, unrolled
        self.tensors = [tensor for learner in learners for tensor in learner.tensors]

    def fit(self, rounds: int) -> None:
        """Changes the weights in place, as long as states of samples held out come nearer to the dense ones.

        Weights of 16 bits stay: differences of two runs drown in their rounding.
        """
        if any(tensor.dtype not in (torch.float32, torch.float64) for tensor in self.tensors):
            return
        before = [tensor.clone() for tensor in self.tensors]
        try:
            error = self._error()
            for _ in range(rounds if 0 < error < math.inf else 0):
                before = [tensor.clone() for tensor in self.tensors]
                error, last = self._improve(before, error), error
                if error >= last:
                    self._set(before)
                    return
        except StrayedError:  # the code branches on states
            self._set(before)

    def _improve(self, before: Vector, error: float) -> float:
        """Takes the first share of a change that helps; returns the error then, or that before."""
        change = self._change()
        for share in _SHARES:
            self._set(before, change, share)
            found = self._error()
            if found < error:
                return found
        return error

    def _change(self) -> Vector:
        """The change of least squares, as far as some turns of conjugate gradients find it."""
        shelf, states = self.unrolled.store.shelf(), dict[int, Stored]()
        left = self._gradient(lambda index, own: states.setdefault(index, shelf.put(own)))
        size = sum(gather(sum(float(s.square().sum()) for one in states.values() for s in one.load())))
        change = [torch.zeros_like(tensor) for tensor in self.tensors]
        step = direction = self._each("precondition", left)
        along = _dot(left, step)
        for _ in range(_TURNS):
            if not (along > 0 and math.isfinite(along)):
                break
            length = sum(one.length(part) for one, part in self._parts(direction))
            scale = _STEP * math.sqrt(size / length) if length > 0 else 0.0
            product = self._product(direction, scale, states)
            bend = _dot(direction, product)
            if not bend > 0:
                break
            change = _add(change, direction, along / bend)
            left = _add(left, product, -along / bend)
            step = self._each("precondition", left)
            along, last = _dot(left, step), along
            direction = _add(step, direction, along / last)
        for one in states.values():
            one.release()
        return change

    def _gradient(self, put: Callable[[int, list[Tensor]], object]) -> Vector:
        """The gradient towards the dense states; learners get their scales, and `put` the states of each batch."""
        total = [torch.zeros_like(tensor) for tensor in self.tensors]
        shapes = [learner.joined(learner.tensors) for learner in self.learners]
        sums = [(part.new_zeros(len(part), len(part)), part.new_zeros(part.shape[1])) for part in shapes]
        for index, steps in self.unrolled.steps.items():
            with _learning(self.tensors):
                values = self.unrolled.run(index, steps.wanted())
                states = [values[i] for i in steps.states]
                left = [t - s.detach() for t, s in zip(self.unrolled.wanted(index), states, strict=True)]
                total = _add(total, _gradients(states, self.tensors, self._masked(index, left)), 1.0)
                felt = _gradients(states, self.tensors, _signs(states))
            for number, (learner, slopes) in enumerate(self._parts(felt)):
                second, own = sums[number]
                for op in steps.uses[number]:
                    second = second + learner.moments(op, values[input_of(op)].detach())
                sums[number] = second, own + learner.joined(slopes).square().sum(0)
            put(index, [s.detach() for s in states])
        for learner, (second, own) in zip(self.learners, sums, strict=True):
            learner.scale(sum_shards(second), sum_shards(own))
        return [sum_shards(part) for part in total]

    def _product(self, direction: Vector, scale: float, states: Mapping[int, Stored]) -> Vector:
        """The product of the damped normal matrix with a vector."""
        total = [torch.zeros_like(tensor) for tensor in self.tensors]
        before = [tensor.clone() for tensor in self.tensors]
        for index in self.unrolled.steps:
            wanted = self.unrolled.steps[index].states
            self._set(before, direction, scale)
            moved = self.unrolled.run(index, wanted)
            self._set(before)
            slopes = [(moved[i] - s) / scale for i, s in zip(wanted, states[index].load(), strict=True)]
            with _learning(self.tensors):
                values = self.unrolled.run(index, wanted)
                found = _gradients([values[i] for i in wanted], self.tensors, self._masked(index, slopes))
            total = _add(total, found, 1.0)
        return _add([sum_shards(part) for part in total], self._each("damp", direction), 1.0)

    def _error(self) -> float:
        """The squared error of the states of samples held out."""
        total = 0.0
        for index in self.unrolled.steps:
            wanted = self.unrolled.steps[index].states
            values = self.unrolled.run(index, wanted)
            missing = [t - values[i] for t, i in zip(self.unrolled.wanted(index), wanted, strict=True)]
            total += sum(float(part.double().square().sum()) for part in self._masked(index, missing, held=True))
        total = sum(gather(total))
        return total if math.isfinite(total) else math.inf

    def _masked(self, index: int, values: Sequence[Tensor], *, held: bool = False) -> list[Tensor]:
        """Values with zeros for the samples that are held out, or for all others."""
        dim, found = self.unrolled.steps[index].dim, []
        for value in values:
            shape = list(value.shape)
            del shape[dim]
            own = self.unrolled.is_held(index, math.prod(shape)) == held
            found.append(value * own.view(shape).unsqueeze(dim).to(value))
        return found

    def _parts(self, vector: Vector) -> Iterator[tuple[Learner, Vector]]:
        start = 0
        for learner in self.learners:
            count = len(learner.tensors)
            yield learner, vector[start : start + count]
            start += count

    def _each(self, name: str, vector: Vector) -> Vector:
        return [t for learner, part in self._parts(vector) for t in getattr(learner, name)(part)]

    def _set(self, before: Vector, change: Vector | None = None, share: float = 0.0) -> None:
        for number, (tensor, old) in enumerate(zip(self.tensors, before, strict=True)):
            tensor.copy_(old if change is None else old + share * change[number])


@contextmanager
def _learning(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Gradients by some tensors are wanted inside; cuDNN's recurrent kernels have none in eval mode."""
    before = [tensor.requires_grad for tensor in tensors]
    for tensor in tensors:
        tensor.requires_grad_(True)
    try:
        with torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
            yield
    finally:
        for tensor, wanted in zip(tensors, before, strict=True):
            tensor.requires_grad_(wanted)


def _gradients(values: Sequence[Tensor], by: Sequence[Tensor], along: Sequence[Tensor]) -> Vector:
    """The gradients of the products of values with others, zero where values do not depend on a tensor."""
    able = [(v, a) for v, a in zip(values, along, strict=True) if v.requires_grad]
    if not able:
        return [torch.zeros_like(tensor) for tensor in by]
    found = torch.autograd.grad(
        [v for v, _ in able], by, [a for _, a in able], retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(found)


def _signs(values: Sequence[Tensor]) -> list[Tensor]:
    """Random signs, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(2, value.shape, generator=generator).mul_(2).sub_(1).to(value.device, value.dtype)
        for value in values
    ]


def _dot(one: Vector, other: Vector) -> float:
    return float(sum((a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)))


def _add(one: Vector, other: Vector, factor: float) -> Vector:
    return [a + factor * b for a, b in zip(one, other, strict=True)]
