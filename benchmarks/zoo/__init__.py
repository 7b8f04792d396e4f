"""The supported patterns: small networks with the block structure of published architectures.

Each has a manifest of the groups that can be pruned from it, found by reading the architecture and not by running the
library; `benchmarks.supported` compares the two.
"""

from benchmarks.zoo import (
    attention,
    branches,
    classics,
    computed,
    dense_prediction,
    detection,
    exchange,
    experts,
    heads,
    hugging_face,
    mobile,
    modern,
    odd,
    recurrent,
    streams,
    unusual,
)
from benchmarks.zoo.registry import PATTERNS, Pattern

__all__ = [
    "PATTERNS",
    "Pattern",
    "attention",
    "branches",
    "classics",
    "computed",
    "dense_prediction",
    "detection",
    "exchange",
    "experts",
    "heads",
    "hugging_face",
    "mobile",
    "modern",
    "odd",
    "recurrent",
    "streams",
    "unusual",
]
