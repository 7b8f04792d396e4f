"""One rule per ATen op: which positions of its operands and results are one node. Importing registers them."""

from mipp.graph.rules import attention, contractions, elementwise, indexing, movement, normalisation, reductions
from mipp.graph.tracker import has_rule, walk

__all__ = [
    "attention",
    "contractions",
    "elementwise",
    "has_rule",
    "indexing",
    "movement",
    "normalisation",
    "reductions",
    "walk",
]
