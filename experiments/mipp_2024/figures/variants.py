"""Figures 1 and 10, and discovery time: MIPP on deformed images and by collapse function, and what takes how long."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from benchmarks.workloads import SPARSE, peers
from experiments.mipp_2024.deformed import deformed as deform
from experiments.mipp_2024.figures import panels, plots
from experiments.mipp_2024.figures.base import Piece, Row, Site, fits, good, of_grid
from experiments.mipp_2024.figures.claims import SAME_SIZE
from experiments.mipp_2024.figures.panels import DIGITS, LENET, PANELS
from experiments.mipp_2024.figures.sparsity import CONFIDENCE, NODES, STEPS, title

from mipp import grid, zoo
from mipp.methods import MIPP, Method, Scratch
from mipp.plan.budget import Budget
from mipp.plan.elimination import confidence_schedule
from mipp.statistics.layer_samples import Collapse
from mipp.zoo import DataSetError

RIVALS = ("sosph", "synflow", "grasp", "thinet", "l1")
SURE = 0.9375
FUNCTIONS = {"l1": "L1 norm", "l2": "L2 norm", "mean": "mean", "std": "standard deviation"}
BENT = ", deformed"
COMPARED = (0.5, 0.1)
"""Fractions of the nodes at which a network of the same size is trained from scratch."""
SHOWN = 10
"""Images in the picture of the deformed data."""


def deformed(site: Site) -> list[Piece]:
    """MIPP on MNIST as it is, and deformed: sized by confidence, and at given sparsities."""
    schedule = confidence_schedule(max(STEPS) + 1)

    def todo(words: str, seeds: range) -> list[grid.Run]:
        tests = {f"{words}{CONFIDENCE}{schedule[n]:.6g}": MIPP(confidence=schedule[n]) for n in STEPS}
        return grid.runs(tests, [Budget(min_keep=0)], seeds) + grid.runs({words: MIPP()}, _nodes(site), seeds)

    return _both_data_sets(site, (False, True), todo)


def same_sizes(site: Site) -> list[Piece]:
    """MIPP on MNIST as it is, and deformed, beside networks of the same sizes that are trained from scratch."""

    def todo(words: str, seeds: range) -> list[grid.Run]:
        methods = {words: MIPP(), f"{SAME_SIZE}{words}": Scratch(like=MIPP())}
        return grid.runs(methods, [Budget(nodes=nodes, min_keep=0) for nodes in COMPARED], seeds)

    return _both_data_sets(site, (True,), todo)


def _both_data_sets(
    site: Site, states: Sequence[bool], todo: Callable[[str, range], Sequence[grid.Run]]
) -> list[Piece]:
    """Runs on the data as they are and deformed, for networks that are trained before pruning or not."""
    panel = DIGITS if site.scale == "smoke" else LENET
    names = {
        f"{title(panel, trained=trained)}{BENT if bent else ''}": (trained, bent)
        for trained in states
        for bent in (False, True)
    }

    def piece(name: str) -> Piece:
        trained, bent = names[name]
        work = panels.workload(panel, site, trained=trained)
        work = replace(work, train=deform(work.train), test=deform(work.test)) if bent else work
        words = f"{panel.data}, {'deformed' if bent else 'as it is'}"
        seeds = range(1 if site.scale == "smoke" else site.seeds or 3)
        return of_grid(name, work, todo(words, seeds), panels.folder(panel, site, trained=trained))

    return site.some({name: partial(piece, name) for name in names})


def draw_deformed(rows: list[Row], path: Path) -> None:
    """Both data sets in one plot, and in a second file some of their images where the data are."""
    merged = [
        {
            **row,
            "panel": str(row["panel"]).removesuffix(BENT),
            "dense of": "deformed" if row["panel"].endswith(BENT) else "as it is",
        }
        for row in rows
    ]
    plots.accuracy(merged, path)
    with suppress(DataSetError):
        draw_images(zoo.load(rows[0]["panel"].split(", ")[1], "train"), path.with_stem(f"{path.stem}-images"))


def draw_images(data: zoo.ImageData, path: Path) -> None:
    """The first images as they are, and below them deformed: as they are in the whole, where each has its strength."""
    with plots.panels(path, 2, SHOWN, 0.9, 1.0) as axes_of:
        for line, words, shown in zip(axes_of, ("as it is", "deformed"), (data, deform(data)), strict=True):
            line[0].set_ylabel(words, fontsize="small")
            for axes, image in zip(line, shown.images, strict=False):
                axes.imshow(image[0].numpy(), cmap="gray_r")
                axes.set(xticks=[], yticks=[])


def collapse_functions(site: Site) -> list[Piece]:
    """MIPP with each of the functions that make one number of a map, and with every position as a sample."""
    panel = DIGITS if site.scale == "smoke" else LENET
    names: tuple[str, ...] = get_args(Collapse)
    methods: dict[str, Method] = {name: MIPP(collapse=name) for name in names}  # type: ignore[arg-type]
    methods["every position"] = MIPP()
    seeds = range(1 if site.scale == "smoke" else site.seeds or 3)

    def piece(*, trained: bool) -> Piece:
        work, folder = (f(panel, site, trained=trained) for f in (panels.workload, panels.folder))
        return of_grid(title(panel, trained=trained), work, grid.runs(methods, _nodes(site), seeds), folder)

    return site.some({title(panel, trained=trained): partial(piece, trained=trained) for trained in (False, True)})


def draw_collapse_functions(rows: list[Row], path: Path) -> None:
    """Accuracy, and in a second file layer collapse."""
    named = [{**row, "method": FUNCTIONS.get(row["method"], row["method"])} for row in rows]
    plots.accuracy(named, path)
    plots.collapse(named, path.with_stem(f"{path.stem}-collapse"))


def discovery(site: Site) -> list[Piece]:
    """Time to choose the nodes: the closed form, one perceptron a layer, the paper's perceptrons, and other methods."""
    chosen = [DIGITS] if site.scale == "smoke" else [p for p in PANELS if fits(p.least, site.scale)]
    return site.some({_network(panel): partial(_timed, panel, site) for panel in chosen})


def draw_discovery(rows: list[Row], path: Path) -> None:
    """Seconds of the selection, on a logarithmic scale."""
    rows = good(rows)
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    with plots.panels(path, 1, len(titles), width=5.5) as axes_of:
        for axes, panel in zip(axes_of[0], titles, strict=True):
            own = good(rows, panel=panel)
            names = list(dict.fromkeys(row["method"] for row in own))[::-1]
            values = [[row["seconds"]["selection"] for row in own if row["method"] == name] for name in names]
            axes.barh(list(map(plots.shown, names)), [sum(v) / len(v) for v in values], color="#1f77b4")
            for at, value in enumerate(values):
                axes.text(
                    sum(value) / len(value), at, f" {sum(value) / len(value):.3g} s", va="center", fontsize="small"
                )
            axes.set(title=f"{panel}: {plots.counted(own)}", xlabel="selection, s", xscale="log")
            axes.margins(x=0.3)


def _network(panel: panels.Panel) -> str:
    return f"{panel.network}, {panel.data}"


def _timed(panel: panels.Panel, site: Site) -> Piece:
    work = replace(panels.workload(panel, site, trained=True), after={}, compensate=False)
    iterations = 20 if panel.network.startswith("vgg") else 150
    tests: dict[str, Method] = {"MIPP, Gaussian": MIPP(confidence=SURE)}
    if site.scale != "smoke":
        tests["MIPP, surrogate"] = MIPP(estimator="surrogate", confidence=SURE)
        tests["MIPP, the paper's MLPs"] = MIPP.paper(confidence=SURE, retrain_iterations=iterations)
    others = {name: peers()[name] for name in RIVALS}
    todo = grid.runs(tests, [Budget(min_keep=0)], [0]) + grid.runs(others, SPARSE[:1], [0])
    return of_grid(_network(panel), work, todo, panels.folder(panel, site, trained=True))


def _nodes(site: Site) -> Sequence[Budget]:
    return SPARSE[:1] if site.scale == "smoke" else [*SPARSE, *(Budget(nodes=n, min_keep=0) for n in NODES)]
