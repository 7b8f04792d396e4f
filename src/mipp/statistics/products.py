"""Products of rows with themselves and with others, summed in float64; by oneDNN where the BLAS of torch is slower."""

from torch import Tensor

from mipp.runtime.onednn import is_dense, linear, pays

_ROWS = 4096  # that are multiplied, at least, before they are added to the sum of all
_STRIPS, _NARROW = 12, 128  # of a product with itself, of which little more than half is computed
_FEWEST = 16  # rows on either side, from which on oneDNN pays


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
        turned = _turn(some) if rows.shape[2] > _NARROW and pays(some[0], some[0]) else some.mT
        for strip in _strips(rows.shape[2]):
            total[:, strip, strip.start :] += times_transposed(turned[:, strip], turned[:, strip.start :])
        if across is not None and others is not None:
            across += times_transposed(turned, others[:, index * size : (index + 1) * size].mT)


def complete(total: Tensor) -> Tensor:
    """Fills in, in place, the lower triangle of what `add_products` has summed up, and makes the rest symmetric."""
    for strip in _strips(total.shape[2]):
        total[:, strip.stop :, strip] = total[:, strip, strip.stop :].mT
        own = total[:, strip, strip]
        own.copy_((own + own.mT).div_(2))
    return total


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """The products of matrices [..., m, k] with the transposes of others [..., n, k], in their own type."""
    one = left.ndim == 3 and len(left) == 1 and min(left.shape[1], right.shape[1]) >= _FEWEST
    if not one or not pays(left[0], right[0]):
        return left @ right.mT
    first, second = (rows[0] if is_dense(rows[0]) else rows[0].contiguous() for rows in (left, right))
    if len(first) > len(second) and not first.is_contiguous():  # oneDNN then copies the smaller one
        return linear(second, first).mT[None]
    return linear(first, second)[None]


def _turn(rows: Tensor) -> Tensor:
    """The transpose, laid out as such; of a single matrix torch makes it faster than of several."""
    return rows[0].T.contiguous()[None] if len(rows) == 1 else rows.mT.contiguous()


def _strips(count: int) -> list[slice]:
    width = max(_NARROW, -(-count // _STRIPS))
    return [slice(start, start + width) for start in range(0, count, width)]
