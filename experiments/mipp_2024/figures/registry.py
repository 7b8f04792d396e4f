"""Every figure and table by name."""

from collections.abc import Mapping
from functools import partial

from experiments.mipp_2024.figures import plots, sparsity
from experiments.mipp_2024.figures.base import Figure

_SPARSITY = {"experiment": "sparsity", "pieces": sparsity.pieces}
_OURS = ("mipp", "mipp of the paper")

FIGURES: Mapping[str, Figure] = {
    "figure2": Figure("accuracy against sparsity, before and after training", draw=plots.accuracy, **_SPARSITY),
    "figure3": Figure("layer collapse, in bins of 5 %", draw=plots.collapse, **_SPARSITY),
    "figure4": Figure("nodes MIPP removes from each layer", draw=partial(plots.ratios, names=_OURS), **_SPARSITY),
    "figure11": Figure("nodes each method removes from each layer", draw=plots.ratios, **_SPARSITY),
    "figure6": Figure(
        "ResNet-50 on ImageNet, top-1 and top-5",
        "imagenet",
        sparsity.imagenet,
        plots.guesses,
        least="paper",
    ),
}
