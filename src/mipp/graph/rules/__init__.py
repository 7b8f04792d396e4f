"""One rule per ATen op: which positions of its operands and results are one node. Importing registers them."""

from mipp.graph.rules import (
    attention,
    contractions,
    elementwise,
    indexing,
    movement,
    normalisation,
    recurrent,
    reductions,
)

__all__ = [
    "attention",
    "contractions",
    "elementwise",
    "indexing",
    "movement",
    "normalisation",
    "recurrent",
    "reductions",
]
