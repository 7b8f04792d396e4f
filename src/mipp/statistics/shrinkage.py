"""Covariances of inputs of which few rows were seen: shrunk, and said in the report."""

from collections.abc import Mapping

from torch import Tensor

from mipp.graph.program import Program
from mipp.statistics.moments import Moments
from mipp.statistics.observing import SiteStatistics

_ROWS_PER_INPUT = 3


def shrink(moments: Moments) -> Tensor:
    """The covariance of inputs; where rows are fewer than three an input, its correlations are shrunk.

    With fewer rows than inputs some inputs are linear functions of others by chance, and losing them looks free. The
    weight of the correlations measured is that of oracle approximating shrinkage towards uncorrelated inputs (Chen,
    Wiesel, Eldar & Hero, IEEE Transactions on Signal Processing 58, 2010), for unit variances.
    """
    covariance, count = moments.covariance, moments.count
    size = len(covariance)
    if not _seen_too_seldom(moments) or size < 2:
        return covariance
    scale = covariance.diagonal().clamp_min(1e-300).sqrt()
    squares = float((covariance / scale).div_(scale[:, None]).square_().sum())
    excess = (count + 1 - 2 / size) * (squares - size)
    share = min(1.0, ((1 - 2 / size) * squares + size * size) / excess) if excess > 0 else 1.0
    shrunk = (1 - share) * covariance
    shrunk.diagonal().add_(share * covariance.diagonal())
    return shrunk


def note_few_rows(program: Program, statistics: Mapping[int, SiteStatistics]) -> list[str]:
    """A sentence for the report about layers whose inputs were seen too seldom.

    Args:
        program: Of the dense model.
        statistics: By index of the op.
    """
    seldom = [op for op, found in statistics.items() if any(map(_seen_too_seldom, found.joint))]
    names = dict.fromkeys(program.ops[op].module or "the model itself" for op in seldom)
    if not names:
        return []
    return [
        f"Fewer than {_ROWS_PER_INPUT} rows an input were seen by {', '.join(names)}: the correlations of what they "
        "read were shrunk. More calibration samples make for a better choice."
    ]


def _seen_too_seldom(moments: Moments) -> bool:
    return moments.count < _ROWS_PER_INPUT * len(moments.mean)
