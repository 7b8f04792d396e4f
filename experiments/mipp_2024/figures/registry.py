"""Every figure and table by name."""

from collections.abc import Mapping
from functools import partial

from experiments.mipp_2024.figures import masks, pixels, plots, questions, sparsity, variants
from experiments.mipp_2024.figures.base import Figure, Row

_SPARSITY = {"experiment": "sparsity", "pieces": sparsity.pieces}
_PIXELS = {"experiment": "pixels", "pieces": pixels.pieces}
_OURS = ("mipp", "mipp of the paper")


def _budget(row: Row) -> str:
    words = {"nodes": "{:.0%} of the nodes", "widths": "equal widths {}"}
    return next((words[k].format(v) for k, v in row["budget"].items() if k in words), "sized by the test")


def _method(row: Row) -> str:
    return str(row["method"])


def _ratios_and_nodes(row: Row) -> str:
    ratios = "equal ratios" if "widths" in row["budget"] else "MIPP's ratios"
    return f"{ratios}, {'MIPP' if row['method'] == 'mipp' else 'random'} nodes"


FIGURES: Mapping[str, Figure] = {
    "figure1": Figure("MNIST as it is, and deformed", "deformed", variants.deformed, variants.draw_deformed),
    "figure2": Figure("accuracy against sparsity, before and after training", draw=plots.accuracy, **_SPARSITY),
    "figure3": Figure("layer collapse, in bins of 5 %", draw=plots.collapse, **_SPARSITY),
    "figure4": Figure("nodes MIPP removes from each layer", draw=partial(plots.ratios, names=_OURS), **_SPARSITY),
    "figure11": Figure("nodes each method removes from each layer", draw=plots.ratios, **_SPARSITY),
    "epochs": Figure("straight after pruning, after 1 and 5 epochs", draw=plots.epochs, **_SPARSITY),
    "costs": Figure("at matched nodes, parameters and MACs", draw=plots.costs, **_SPARSITY),
    "figure6": Figure(
        "ResNet-50 on ImageNet, top-1 and top-5", "imagenet", sparsity.imagenet, plots.guesses, least="paper"
    ),
    "figure7": Figure("pixels selected for pruned networks", draw=pixels.pictures, **_PIXELS),
    "figure8": Figure("accuracy with selected pixels", draw=pixels.accuracy, **_PIXELS),
    "figure9": Figure("layer collapse with selected pixels", draw=pixels.collapse, **_PIXELS),
    "figure10": Figure(
        "functions that make one number of a map",
        "collapse_functions",
        variants.collapse_functions,
        variants.draw_collapse_functions,
    ),
    "discovery": Figure("time to choose the nodes", "discovery", variants.discovery, variants.draw_discovery),
    "masks": Figure("what a mask tells about the data, I(D;M)", "masks", masks.pieces, masks.draw),
    "decomposition": Figure(
        "ratios, identity and compensation",
        "decomposition",
        questions.decomposition,
        partial(plots.bars, case=lambda row: f"{questions.fraction(row):.0%} of the nodes", name=_ratios_and_nodes),
    ),
    "direction": Figure(
        "output to input, and input to output",
        "direction",
        questions.direction,
        partial(plots.bars, case=_budget, name=_method),
    ),
    "dynamic": Figure(
        "a ranking made once, and made anew after each removal",
        "dynamic",
        questions.dynamic,
        partial(plots.bars, case=_budget, name=_method),
    ),
    "calibration": Figure(
        "few calibration images, and unbalanced classes",
        "calibration",
        questions.calibration,
        partial(plots.bars, case=lambda row: row["panel"], name=_method),
    ),
}
