"""Products in float32 by oneDNN, which torch convolves with, where its kernels are faster than those of torch's BLAS.

They take half of the time on processors of AMD, where MKL has no kernels for AVX-512, and longer on those of Intel.
"""

import timeit
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

_LINEAR = torch.ops.aten.linear.default
_LEAST = 2**21  # multiply-accumulates from which on it pays
_SIDE, _CLEARLY = 384, 0.8  # of a product in which its time, as a share of the BLAS's, says that it is faster
_IS_THERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def faster(op: Callable[..., Any], args: Sequence[Any]) -> tuple[Callable[..., Any], Sequence[Any]]:
    """An op and arguments that compute the same, but for rounding, in less time; the ones given where there are none.

    There are for large linear layers in float32 on a CPU, without gradients.
    """
    if op is not _LINEAR or not pays(args[0], args[1]) or not is_dense(args[1]):
        return op, args
    if args[0].shape[-1] != args[1].shape[1]:  # torch has the better words for it
        return op, args
    return linear, args


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The products of inputs [..., k] with the transpose of a weight [n, k] that `is_dense`; where it `pays`."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return product


def pays(inputs: Tensor, weight: Tensor) -> bool:
    """True for a large product in float32 on a CPU, without gradients."""
    if not _IS_THERE or weight.ndim != 2 or inputs.numel() * len(weight) < _LEAST:
        return False
    if torch.get_float32_matmul_precision() != "highest":  # oneDNN may then multiply in bfloat16
        return False
    plain = all(t.dtype is torch.float32 and t.device.type == "cpu" for t in (inputs, weight))
    if not plain or (torch.is_grad_enabled() and (inputs.requires_grad or weight.requires_grad)):
        return False
    return is_faster()


@cache
def is_faster() -> bool:
    """True if oneDNN is clearly faster than the BLAS of torch, which is measured once in a process."""
    matrix = torch.ones(_SIDE, _SIDE, device="cpu")
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        calls = [partial(multiply, matrix, matrix) for multiply in (linear, torch.mm)]
        own, blas = (min(timeit.repeat(call, number=1, repeat=9)) for call in calls)
    return own < _CLEARLY * blas


def is_dense(weight: Tensor) -> bool:
    """True for a matrix without gaps between its rows or its columns; others take oneDNN a thousand times as long."""
    return weight.is_contiguous() or weight.mT.is_contiguous()
