r"""Tests of the hypothesis that a block of features adds information about the targets of a linear regression.

Leaving q features out of a regression of m targets changes Wilks' Λ = det E / det (E + H), and -log Λ is twice the
information lost. Rao's F is exact for q = 1, q = 2, m = 1 or m = 2 and an approximation otherwise (C. R. Rao, Linear
Statistical Inference, 1973, section 8c.5).
"""

from math import expm1, sqrt

import scipy


def wilks_confidence(
    loss: float, width: int, targets: int, freedom: int, samples: int = 0, margin: float = 0.0
) -> float:
    """One minus the p-value of the test that the features left out carry at most `margin` nats.

    A node for which it is at least x is one whose lower x confidence bound exceeds the margin.

    Args:
        loss: Information lost without them, measured on the samples, in nats.
        width: Number of features left out, q.
        targets: Number of targets, m.
        freedom: Degrees of freedom of the residual, samples - 1 - features of the larger regression; >= `targets`.
        samples: Number of samples; sets the scale of the margin, and is not read without one.
        margin: Information, in nats, that is not worth keeping; the F distribution is then not central.
    """
    root = _rao_root(width, targets)
    numerator = width * targets
    denominator = (freedom + width - (targets + width + 1) / 2) * root - (numerator - 2) / 2
    statistic = expm1(2 * max(loss, 0.0) / root) * denominator / numerator
    if margin == 0:
        return float(scipy.stats.f.cdf(statistic, numerator, denominator))
    return float(scipy.stats.ncf.cdf(statistic, numerator, denominator, samples * root * expm1(2 * margin / root)))


def _rao_root(width: int, targets: int) -> float:
    squares = width**2 + targets**2 - 5
    return sqrt(((width * targets) ** 2 - 4) / squares) if squares > 0 and min(width, targets) > 1 else 1.0
