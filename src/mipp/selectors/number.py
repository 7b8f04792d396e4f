"""The number of features to keep, from what the user gives."""

from typing import Any

import numpy as np


def count_features(number: Any, available: int) -> int | None:
    """As many as a whole number says, or the fraction of a float, one at least; None where it is neither.

    >>> count_features(3, 10), count_features(0.25, 10), count_features(11, 10)
    (3, 2, None)
    """
    if isinstance(number, int | np.integer) and not isinstance(number, bool):
        return int(number) if 1 <= number <= available else None
    if isinstance(number, float | np.floating):
        return max(1, round(float(number) * available)) if 0 < number <= 1 else None
    return None
