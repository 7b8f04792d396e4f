"""Questions of the paper's reviewers, and its open ones, on networks that were trained before pruning."""

from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.workloads import SPARSE
from experiments.mipp_2024.figures import panels
from experiments.mipp_2024.figures.base import Piece, Row, Site, of_grid
from experiments.mipp_2024.figures.panels import DIGITS, LENET, Panel

from mipp import grid
from mipp.methods import MIPP, SOSPH, Method, Random, Taylor, ThiNet
from mipp.pipeline.prune import inspect
from mipp.plan.budget import Budget
from mipp.zoo import ImageData

FRACTIONS = (0.3, 0.1)
SAMPLES = (32, 128, 512, 4096)


def decomposition(site: Site) -> list[Piece]:
    """Ratios, identity and compensation: MIPP's widths or equal ones, MIPP's nodes or random ones, refitted or not."""
    methods: dict[str, Method] = {"mipp": MIPP(), "random": Random()}
    own: dict[str, Method] = {"mipp": MIPP(), "random@mipp": Random(like=MIPP())}
    work, sizes = _work(site), _sizes(site)
    todo = []
    for seed in range(_seeds(site)):
        for budget in SPARSE:
            equal = {name: max(1, round(budget.nodes * size)) for name, size in sizes.items()}
            todo += grid.runs(own, [budget], [seed])
            todo += grid.runs(methods, [Budget(widths=equal, min_keep=0)], [seed])
    return [of_grid("decomposition", work, todo, _folder(site))]


def direction(site: Site) -> list[Piece]:
    """From the outputs to the inputs, or from the inputs to the outputs: at equal widths, and at widths of their own.

    Both go in one step: a run in several measures nodes again towards those kept downstream, which forward runs cannot.
    """
    methods = {"output to input": MIPP(steps=1), "input to output": MIPP(direction="forward", steps=1)}
    budgets = [*_equal_widths(site), *SPARSE]
    return [of_grid("direction", _work(site), grid.runs(methods, budgets, range(_seeds(site))), _folder(site))]


def dynamic(site: Site) -> list[Piece]:
    """Rankings made once against one made anew after each removal, at equal widths, and what information they lose."""
    methods = {
        "ranked anew after each removal": MIPP(),
        "ranked once": MIPP(order="mi"),
        "ranked once, leaving one out": MIPP(order="loss"),
    }
    todo = grid.runs(methods, _equal_widths(site), range(_seeds(site)))
    return [of_grid("dynamic", _work(site), todo, _folder(site))]


def calibration(site: Site) -> list[Piece]:
    """Few calibration images, and images of which nine tenths are of one class, or of half of the classes only."""
    work = replace(_work(site), after={"1 epoch": _work(site).trainings_after()["1 epoch"]})
    methods: dict[str, Method] = {"mipp": MIPP(), "sosph": SOSPH(), "thinet": ThiNet(), "taylor": Taylor()}
    counts = (64, 256) if site.scale == "smoke" else SAMPLES
    cases = {f"{count:,} images": replace(work, samples=count) for count in counts}
    cases |= {name: replace(work, calibration=data) for name, data in imbalanced(work.train).items()}
    seeds = range(_seeds(site))
    return [of_grid(name, case, grid.runs(methods, SPARSE[-1:], seeds), _folder(site)) for name, case in cases.items()]


def imbalanced(data: ImageData) -> dict[str, ImageData]:
    """Calibration data of other class proportions than the data's own."""
    labels, half = data.labels, data.num_classes // 2
    first = (labels == 0).nonzero().flatten()
    others = (labels != 0).nonzero().flatten()
    nine_to_one = torch.cat([first, others[: len(first) // 9]])
    subsets = {"nine of ten of one class": nine_to_one, "half of the classes": (labels < half).nonzero().flatten()}
    return {name: replace(data.subset(index), name=f"{data.name}, {name}") for name, index in subsets.items()}


def _panel(site: Site) -> Panel:
    return DIGITS if site.scale == "smoke" else LENET


def _work(site: Site) -> grid.Workload:
    return panels.workload(_panel(site), site, trained=True)


def _folder(site: Site) -> Path:
    return panels.folder(_panel(site), site, trained=True)


def _seeds(site: Site) -> int:
    return 1 if site.scale == "smoke" else site.seeds or 3


def _equal_widths(site: Site) -> list[Budget]:
    """The same share of every layer."""
    sizes = _sizes(site).items()
    return [Budget(widths={name: max(1, round(f * size)) for name, size in sizes}, min_keep=0) for f in FRACTIONS]


def _sizes(site: Site) -> dict[str, int]:
    work = _work(site)
    groups = inspect(work.make(0), work.train.normalise(slice(2))).groups
    return {name: group.size for name, group in groups.items()}


def fraction(row: Row) -> float:
    """The fraction of the nodes that a row of the decomposition keeps, to the next tenth: equal widths are rounded."""
    return round(row["nodes"], 1)
