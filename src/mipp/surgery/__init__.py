"""The only code that cuts parameters. It works on a copy, and proves that cutting equals masking."""

from mipp.surgery.cut import apply, check, layer_sizes, mask
from mipp.surgery.huggingface import describe
from mipp.surgery.proof import (
    agrees,
    distance,
    extend_frozen,
    names_of,
    outputs,
    rounding,
    verified_graph,
    wrong_groups,
)

__all__ = [
    "agrees",
    "apply",
    "check",
    "describe",
    "distance",
    "extend_frozen",
    "layer_sizes",
    "mask",
    "names_of",
    "outputs",
    "rounding",
    "verified_graph",
    "wrong_groups",
]
