"""Figures 2, 3, 4, 6 and 11: methods against sparsity, before and after training, on each network."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.workloads import MATCHED, SPARSE, peers, resnet20
from experiments.mipp_2024.figures import panels
from experiments.mipp_2024.figures.base import Piece, Site, fits, of_grid
from experiments.mipp_2024.figures.panels import IMAGENET, LENET, PANELS, Panel

from mipp import grid
from mipp.methods import MIPP, Method
from mipp.plan.budget import Budget
from mipp.plan.elimination import confidence_schedule

NODES = (0.5, 0.2, 0.05)
"""Besides those of `benchmarks.workloads`."""
TRAINED = ("mipp", "sosph", "synflow", "grasp", "thinet", "l1", "imp", "oto", "random@mipp", "scratch@mipp")
UNTRAINED = (
    "mipp", "synflow", "grasp", "thinet", "reinit@mipp", "snip", "itersnip", "itergrasp", "prospr", "l1", "imp", "oto",
    "random@mipp",
)  # fmt: skip
LONG = ("imp", "oto", "scratch@mipp")
"""Methods that take a training or more; on large networks at the paper's scale only."""
STEPS = (0, 2, 4, 7, 10, 14, 19)
"""Of the paper's schedule of confidences."""
PAPER_STEPS = (2, 7)
ENOUGH = 5120
"""Calibration samples for the paper's perceptrons; on 1,024 they are overfitted: held-out information is negative."""
BESIDE = [*SPARSE, Budget(nodes=0.5, min_keep=0)]
"""Sizes of its rivals: on either side of what the confidences leave."""
CONFIDENCE = ", confidence "
RESNET20 = "resnet20, cifar10, trained"


def pieces(site: Site) -> list[Piece]:
    """The runs of Figure 2; figures 3, 4 and 11 show the same."""
    chosen = [panels.DIGITS] if site.scale == "smoke" else [panel for panel in PANELS if fits(panel.least, site.scale)]
    found = {
        title(panel, trained=trained): partial(_piece, panel, site, trained=trained)
        for panel in chosen
        for trained in (False, True)
    }
    if site.weights and site.scale != "smoke":
        found[RESNET20] = partial(_resnet20, site)
    return site.some(found)


def perceptrons(site: Site) -> list[Piece]:
    """The paper's own method on enough samples, and its rivals and the closed form on the same."""
    panel = panels.DIGITS if site.scale == "smoke" else LENET
    return site.some({title(panel, trained=t): partial(_perceptrons, panel, site, trained=t) for t in (False, True)})


def _perceptrons(panel: Panel, site: Site, *, trained: bool) -> Piece:
    if site.scale == "smoke":
        return _piece(panel, site, trained=trained)
    work = replace(panels.workload(panel, site, trained=trained), samples=ENOUGH)
    names = ("mipp", "synflow", "grasp", "thinet", "sosph" if trained else "reinit@mipp")
    todo = []
    for seed in range(site.seeds or 3):
        todo += grid.runs(_papers(), [Budget(min_keep=0)], [seed])
        todo += grid.runs(named(names), BESIDE, [seed])
    return of_grid(title(panel, trained=trained), work, todo, panels.folder(panel, site, trained=trained))


def imagenet(site: Site) -> list[Piece]:
    """The runs of Figure 6: MIPP and ThiNet, at the ratios of the paper."""
    found = []
    for trained, ratio in ((False, 0.444), (True, 0.289)):
        work = panels.workload(IMAGENET, site, trained=trained)
        todo = grid.runs(named(("mipp", "thinet")), [Budget(nodes=ratio, min_keep=0)], range(site.seeds or 1))
        found.append(
            of_grid(title(IMAGENET, trained=trained), work, todo, panels.folder(IMAGENET, site, trained=trained))
        )
    return found


def title(panel: Panel, *, trained: bool) -> str:
    """The name of a panel's half."""
    return f"{panel.network}, {panel.data}, {'trained' if trained else 'untrained'}"


def runs(panel: Panel, site: Site, seeds: Sequence[int], *, trained: bool) -> list[grid.Run]:
    """MIPP at the paper's confidences, all methods at the same sparsities; the paper's perceptrons on one seed only."""
    if site.scale == "smoke":
        tests = {f"mipp{CONFIDENCE}0.9": MIPP(confidence=0.9)}
        return grid.runs(named(("mipp", "l1")), SPARSE[:1], [0]) + grid.runs(tests, [Budget(min_keep=0)], [0])
    names = [n for n in (TRAINED if trained else UNTRAINED) if panel == LENET or site.scale == "paper" or n not in LONG]
    nodes = SPARSE + [Budget(nodes=fraction, min_keep=0) for fraction in NODES]
    budgets = [*nodes, *MATCHED] if panel == LENET else nodes
    schedule = confidence_schedule(max(STEPS) + 1)
    ours = {f"mipp{CONFIDENCE}{schedule[n]:.6g}": MIPP(confidence=schedule[n]) for n in STEPS}
    found = (
        grid.runs(_papers(), [Budget(min_keep=0)], seeds[:1]) if panel == LENET else []
    )  # first, as they take longest
    for seed in seeds:
        found += grid.runs(ours, [Budget(min_keep=0)], [seed])
        found += grid.runs(named(names), budgets, [seed])
    return found


def _papers() -> dict[str, Method]:
    """The paper's perceptrons at two of its confidences."""
    schedule = confidence_schedule(max(PAPER_STEPS) + 1)
    return {f"mipp of the paper{CONFIDENCE}{schedule[n]:.6g}": MIPP.paper(confidence=schedule[n]) for n in PAPER_STEPS}


def _piece(panel: Panel, site: Site, *, trained: bool) -> Piece:
    work = panels.workload(panel, site, trained=trained)
    todo = runs(panel, site, range(site.seeds or 3), trained=trained)
    return of_grid(title(panel, trained=trained), work, todo, panels.folder(panel, site, trained=trained))


def _resnet20(site: Site) -> Piece:
    """ResNet-20 with published weights: the methods that need no training, straight after and after one epoch."""
    names = ("mipp", "sosph", "synflow", "grasp", "thinet", "l1", "taylor", "random@mipp")
    budgets = [Budget(macs=kept) for kept in (0.5, 0.7, 0.35, 0.25)]
    assert site.weights is not None
    todo = grid.runs(named(names), budgets, range(site.seeds or 1))
    return of_grid(RESNET20, resnet20(site.weights, site.device), todo, site.folder("resnet"))


def named(names: Sequence[str]) -> dict[str, Method]:
    """The methods of these names."""
    found = peers()
    return {name: found[name] for name in names}
