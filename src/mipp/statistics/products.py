"""Products of rows with themselves and with others, summed in float64; by oneDNN where the BLAS of torch is slower."""

import torch
from torch import Tensor

_ROWS = 1024  # that are multiplied, at least, before they are added to the sum of all
_STRIPS, _NARROW = 12, 128  # of a product with itself, of which little more than half is computed
_LEAST = 2**22  # multiply-accumulates from which on oneDNN pays
_FEWEST = 16  # rows on either side
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def add_products(total: Tensor, rows: Tensor, across: Tensor | None = None, others: Tensor | None = None) -> None:
    """Adds the upper triangle, and a little more, of the products of features with themselves; see `complete`.

    Args:
        total: Shape [groups, features, features], in float64.
        rows: Shape [groups, rows, features].
        across: Gets the products of features with those of other rows, shape [groups, features, others].
        others: Shape [groups, rows, others].
    """
    size = max(_ROWS, rows.shape[2])
    for index, some in enumerate(rows.split(size, 1)):
        turned = some.mT.contiguous() if rows.shape[2] > _NARROW else some.mT
        for strip in _strips(rows.shape[2]):
            total[:, strip, strip.start :] += times_transposed(turned[:, strip], turned[:, strip.start :])
        if across is not None and others is not None:
            across += times_transposed(turned, others[:, index * size : (index + 1) * size].mT)


def complete(total: Tensor) -> Tensor:
    """Fills in, in place, the lower triangle of what `add_products` has summed up."""
    for strip in _strips(total.shape[2]):
        total[:, strip.stop :, strip] = total[:, strip, strip.stop :].mT
        upper = total[:, strip, strip].triu()
        total[:, strip, strip] = upper + upper.triu(1).mT
    return total


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """The products of matrices [..., m, k] with the transposes of others [..., n, k], in their own type.

    MKL has no kernels for AVX-512 where processors are AMD's; oneDNN, which torch convolves with, has them.
    """
    if not _pays(left, right):
        return left @ right.mT
    first, second = _dense(left[0]), _dense(right[0])
    if len(first) > len(second) and not first.is_contiguous():  # oneDNN then copies the smaller one
        return _by_onednn(second, first).mT[None]
    return _by_onednn(first, second)[None]


def _by_onednn(left: Tensor, right: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return product


def _dense(matrix: Tensor) -> Tensor:
    """The matrix as oneDNN has fast kernels for: without gaps between its rows or its columns."""
    return matrix if matrix.is_contiguous() or matrix.mT.is_contiguous() else matrix.contiguous()


def _pays(left: Tensor, right: Tensor) -> bool:
    """True for one large product on a CPU for which torch has oneDNN."""
    (m, k), n = left.shape[-2:], right.shape[-2]
    plain = left.dtype == right.dtype == torch.float32 and left.device.type == right.device.type == "cpu"
    large = left.ndim == 3 and len(left) == 1 and min(m, n) >= _FEWEST and m * n * k >= _LEAST
    return plain and large and _HAS_ONEDNN and not (left.requires_grad or right.requires_grad)


def _strips(count: int) -> list[slice]:
    width = max(_NARROW, -(-count // _STRIPS))
    return [slice(start, start + width) for start in range(0, count, width)]
