"""Products of rows with themselves and with others, summed in float64; by oneDNN where the BLAS of torch is slower."""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 1024  # that are multiplied, at least, before they are added to the sum of all
_STRIPS, _NARROW = 12, 128  # of a product with itself, of which little more than half is computed
_LEAST = 2**25  # multiply-accumulates from which on oneDNN pays
_FEWEST = 16  # rows on either side


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
    product: Tensor = F.linear(left[0].to_mkldnn(), right[0].contiguous()).to_dense()
    return product[None]


def _pays(left: Tensor, right: Tensor) -> bool:
    """True for one large product on a CPU for which torch has oneDNN."""
    (m, k), n = left.shape[-2:], right.shape[-2]
    plain = left.dtype == right.dtype == torch.float32 and left.device.type == right.device.type == "cpu"
    large = left.ndim == 3 and len(left) == 1 and min(m, n) >= _FEWEST and m * n * k >= _LEAST
    return plain and large and torch.backends.mkldnn.is_available()


def _strips(count: int) -> list[slice]:
    width = max(_NARROW, -(-count // _STRIPS))
    return [slice(start, start + width) for start in range(0, count, width)]
