"""Every figure and table by name: what the paper says of it, what to run, how to draw it."""

from collections.abc import Mapping
from functools import partial

from experiments.mipp_2024.figures import (
    claims,
    masks,
    measurements,
    paper_networks,
    pixels,
    plots,
    questions,
    sparsity,
    variants,
)
from experiments.mipp_2024.figures.base import Figure, Outcome, Row

_POINTS = "95 % interval of the paired difference over the seeds"
_OURS = ("mipp", "mipp of the paper")


def _budget(row: Row) -> str:
    if "widths" in row["budget"]:
        return f"equal widths, {questions.fraction(row):.0%} of the nodes"
    return f"{row['budget']['nodes']:.0%} of the nodes" if "nodes" in row["budget"] else "sized by the test"


def _method(row: Row) -> str:
    return str(row["method"])


def _panel(row: Row) -> str:
    return str(row["panel"])


def _ratios_and_nodes(row: Row) -> str:
    ratios = "equal ratios" if "widths" in row["budget"] else "MIPP's ratios"
    return f"{ratios}, {'MIPP' if row['method'] == 'mipp' else 'random'} nodes"


def _once(rows: list[Row]) -> list[Outcome]:
    return [*claims.straight_after(rows), *measurements.at_each_sparsity(rows, "refitted")]


def _after_an_epoch(rows: list[Row]) -> list[Outcome]:
    stages = ("pruned, 1 epoch", "refitted, 1 epoch")
    each = [one for stage in stages for one in measurements.at_each_sparsity(rows, stage)]
    return [*claims.over_draws(rows, stages), *each]


def _kept(row: Row) -> str:
    return f"{questions.fraction(row):.0%} of the nodes"


FIGURES: Mapping[str, Figure] = {
    "figure1": Figure(
        "MNIST as it is, and deformed",
        "deformed",
        variants.deformed,
        variants.draw_deformed,
        "deformed images make an untrained network harder to prune, and not a trained one",
        _POINTS,
        claims.deformed,
    ),
    "figure2": Figure(
        "accuracy against sparsity, before and after training",
        "sparsity",
        sparsity.pieces,
        plots.accuracy,
        "MIPP is at least as accurate as SynFlow, GraSP, ThiNet and SOSP-H, or re-initialisation before training",
        _POINTS,
        claims.methods,
    ),
    "trained": Figure(
        "the paper's larger networks, trained once: straight after pruning, and refitted",
        "trained",
        paper_networks.trained,
        plots.accuracy,
        "MIPP is at least as accurate as SynFlow, GraSP, ThiNet and SOSP-H",
        "95 % interval of the paired difference over draws of calibration images",
        _once,
    ),
    "retrained": Figure(
        "the paper's larger networks, trained once: one epoch after pruning",
        "retrained",
        paper_networks.retrained,
        plots.accuracy,
        "MIPP is at least as accurate as SynFlow, GraSP, ThiNet and SOSP-H",
        "95 % interval of the paired difference over draws of calibration images",
        _after_an_epoch,
    ),
    "untrained": Figure(
        "layer collapse and ratios of the paper's larger networks before training: figures 3, 4 and 11",
        "untrained",
        paper_networks.untrained,
        paper_networks.draw_untrained,
        "MIPP empties layers least often",
        "exact sign test on paired runs, 5 %",
        claims.untrained,
    ),
    "perceptrons": Figure(
        "the paper's own method, on enough samples",
        "perceptrons",
        sparsity.perceptrons,
        plots.accuracy,
        "MIPP is at least as accurate as SynFlow, GraSP, ThiNet and SOSP-H, or re-initialisation before training",
        _POINTS,
        claims.papers_own_and_collapse,
    ),
    "figure3": Figure(
        "layer collapse, in bins of 5 %",
        "sparsity",
        sparsity.pieces,
        plots.collapse,
        "MIPP empties layers least often",
        "exact sign test on paired runs, 5 %",
        claims.seldom_empty,
    ),
    "figure4": Figure(
        "nodes MIPP removes from each layer",
        "sparsity",
        sparsity.pieces,
        partial(plots.ratios, names=_OURS),
        "MIPP finds ratios of its own for each layer",
        outcome=partial(measurements.ratios, names=_OURS),
    ),
    "figure6": Figure(
        "ResNet-50 on ImageNet, top-1 and top-5",
        "imagenet",
        sparsity.imagenet,
        plots.guesses,
        "MIPP generalises better than ThiNet; the paper's 88 % can only be top-5",
        _POINTS,
        claims.generalises,
        least="paper",
    ),
    "figure7": Figure(
        "pixels selected for pruned networks",
        "pixels",
        pixels.pieces,
        pixels.pictures,
        "the selection looks random, with a tendency to the right",
        "fewer than one and a half times as many neighbours as at random; more than half on the right",
        claims.random_pixels,
    ),
    "figure8": Figure(
        "accuracy with selected pixels",
        "pixels",
        pixels.pieces,
        pixels.accuracy,
        "with a quarter of the pixels and a tenth of the nodes MIPP outperforms the other methods",
        _POINTS,
        claims.pixels,
    ),
    "figure9": Figure(
        "layer collapse with selected pixels",
        "pixels",
        pixels.pieces,
        pixels.collapse,
        "MIPP empties layers least often",
        "exact sign test on paired runs, 5 %",
        partial(claims.seldom_empty, key="nodes kept"),
    ),
    "figure10": Figure(
        "functions that make one number of a map",
        "collapse_functions",
        variants.collapse_functions,
        variants.draw_collapse_functions,
        "L1 is the best of L1, L2, mean and standard deviation",
        _POINTS,
        claims.collapse_function,
    ),
    "figure11": Figure(
        "nodes each method removes from each layer",
        "sparsity",
        sparsity.pieces,
        plots.ratios,
        "ratios differ between methods",
        outcome=measurements.extremes,
    ),
    "masks": Figure(
        "what a mask tells about the data, I(D;M)",
        "masks",
        masks.pieces,
        masks.draw,
        "the later version: the more a mask tells about the data, the better; control: masks from a hash of the data",
        "95 % interval of the rank correlation over the seeds",
        claims.masks,
    ),
    "epochs": Figure(
        "straight after pruning, after 1 and 5 epochs",
        "sparsity",
        sparsity.pieces,
        plots.epochs,
        "asked: is it the pruning, or the training afterwards?",
        outcome=measurements.short,
    ),
    "costs": Figure(
        "at matched nodes, parameters and MACs",
        "sparsity",
        sparsity.pieces,
        plots.costs,
        "asked: does the order hold at equal parameters and at equal MACs?",
        outcome=measurements.at_equal_cost,
    ),
    "controls": Figure(
        "the same widths with random nodes, re-drawn weights, or trained from scratch",
        "sparsity",
        sparsity.pieces,
        partial(plots.epochs, names=("mipp", "random@mipp", "reinit@mipp", "scratch@mipp")),
        "asked: would a small network trained from scratch do?",
        outcome=measurements.controls,
    ),
    "capacity": Figure(
        "deformed images, and networks of the same sizes trained from scratch",
        "capacity",
        variants.same_sizes,
        plots.accuracy,
        "asked: do deformed images make pruning harder, or only small networks?",
        _POINTS,
        claims.deformed,
    ),
    "discovery": Figure(
        "time to choose the nodes",
        "discovery",
        variants.discovery,
        variants.draw_discovery,
        "asked: what does the selection cost?",
        outcome=measurements.discovery,
    ),
    "decomposition": Figure(
        "ratios, identity and compensation",
        "decomposition",
        questions.decomposition,
        partial(plots.bars, case=_kept, name=_ratios_and_nodes),
        "asked: do the ratios help, the nodes, or the refit?",
        outcome=measurements.decomposition,
    ),
    "direction": Figure(
        "output to input, and input to output",
        "direction",
        questions.direction,
        partial(plots.bars, case=_budget, name=_method),
        "going from the outputs to the inputs is better",
        _POINTS,
        claims.pairs("output to input", "input to output"),
    ),
    "dynamic": Figure(
        "a ranking made once, and made anew after each removal",
        "dynamic",
        questions.dynamic,
        partial(plots.bars, case=_budget, name=_method),
        "static rankings miss how removals change what the others are worth",
        _POINTS,
        claims.pairs("ranked anew after each removal", "ranked once", "ranked once, leaving one out"),
    ),
    "calibration": Figure(
        "few calibration images, and unbalanced classes",
        "calibration",
        questions.calibration,
        partial(plots.bars, case=_panel, name=_method),
        "asked: how much data, and how balanced, does it need?",
        outcome=measurements.means,
    ),
}
