"""Figures 7, 8 and 9: MIPP selects the pixels that inform about what other methods left of the first layer."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.workloads import SPARSE, peers
from experiments.mipp_2024.figures import panels, plots
from experiments.mipp_2024.figures.base import Piece, Row, Site, by, good, of_measurements
from experiments.mipp_2024.figures.panels import DIGITS, LENET, Panel
from experiments.mipp_2024.figures.sparsity import title
from torch import nn

from mipp import grid
from mipp.data.calibration import Calibration
from mipp.pipeline.prune import prune
from mipp.plan.budget import Budget
from mipp.report.measuring import device_of
from mipp.selectors.pixels import select_inputs
from mipp.zoo import ImageData

TRAINED = ("mipp", "sosph", "synflow", "grasp", "thinet")
UNTRAINED = ("mipp", "synflow", "grasp", "thinet", "reinit@mipp")
KEPT = (0.5, 0.25, 0.1)
"""Of the pixels."""


def pieces(site: Site) -> list[Piece]:
    """Networks of three in ten and one in ten nodes on all, half, a quarter and a tenth of the pixels."""
    panel = DIGITS if site.scale == "smoke" else LENET
    return site.some(
        {title(panel, trained=trained): partial(_piece, panel, site, trained=trained) for trained in (False, True)}
    )


def pictures(rows: list[Row], path: Path) -> None:
    """Figure 7: the pixels selected for networks pruned by MIPP; dark ones in all seeds."""
    rows = [row for row in good(rows, method="mipp") if row["pixels"]]
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    columns = [(nodes, kept) for nodes in sorted({row["nodes kept"] for row in rows}) for kept in KEPT]
    with plots.panels(path, len(titles), len(columns), 2.4, 2.7) as axes_of:
        for line, panel in zip(axes_of, titles, strict=True):
            for axes, (nodes, kept) in zip(line, columns, strict=True):
                own = good(rows, panel=panel, kept=kept, **{"nodes kept": nodes})
                if not own:
                    continue
                share = torch.zeros(own[0]["shape"])
                for row in own:
                    share.view(-1)[row["pixels"]] += 1 / len(own)
                axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
                words = panel.rpartition(", ")[2]
                axes.set(xticks=[], yticks=[])
                axes.set_title(
                    f"{words}, {nodes:.0%} of the nodes\n{kept:.0%} of the pixels, {plots.counted(own)}", fontsize=7
                )


def accuracy(rows: list[Row], path: Path) -> None:
    """Figure 8: accuracy with the pixels, straight after and after training, by method."""
    plots.bars(rows, path, _case, plots.family)


def collapse(rows: list[Row], path: Path) -> None:
    """Figure 9: the share of those runs that emptied a layer."""
    rows = good(rows)
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    with plots.panels(path, len(titles), 1, 9, 3) as axes_of:
        for (axes,), panel in zip(axes_of, titles, strict=True):
            own = by(good(rows, panel=panel), "nodes kept", "kept")
            names = list(dict.fromkeys(row["method"] for row in good(rows, panel=panel)))
            for number, name in enumerate(names):
                mine = [good(members, method=name) for members in own.values()]
                shares = [100 * sum(map(plots.collapsed, members)) / max(len(members), 1) for members in mine]
                places = [at + 0.8 * (number + 0.5) / len(names) - 0.4 for at in range(len(own))]
                axes.bar(places, shares, 0.7 / len(names), color=plots.COLOURS.get(name), label=plots.shown(name))
            words = [f"{nodes:.0%} of the nodes\n{kept:.0%} of the pixels" for nodes, kept in own]
            axes.set(title=f"{panel}: {plots.counted(good(rows, panel=panel))}", ylim=(0, 103))
            axes.set_ylabel("runs with an empty layer, %", fontsize="x-small")
            axes.set_xticks(range(len(own)), words, fontsize="x-small")
            axes.legend(fontsize="x-small")


def _case(row: Row) -> str:
    return f"{row['panel']}, {row['nodes kept']:.0%} of the nodes, {row['kept']:.0%} of the pixels"


def _piece(panel: Panel, site: Site, *, trained: bool) -> Piece:
    work, folder = panels.workload(panel, site, trained=trained), panels.folder(panel, site, trained=trained)
    names, kept, seeds = TRAINED if trained else UNTRAINED, (*KEPT, 1.0), range(site.seeds or 3)
    if site.scale == "smoke":
        names, kept, seeds = ("mipp",), (0.5,), range(1)
    todo = [
        (
            {"method": name, "nodes kept": budget.nodes, "kept": fraction, "seed": seed},
            partial(_measured, work, folder, name, budget, fraction, seed),
        )
        for seed in seeds
        for budget in SPARSE
        for fraction in kept
        for name in names
    ]
    trainings = [job for seed in seeds if (job := work.training(seed, folder)) is not None]
    piece = of_measurements(title(panel, trained=trained), work.options(), todo, site.folder("pixels"))
    return replace(piece, jobs=[*trainings, *piece.jobs], rows=piece.rows)


def _measured(work: grid.Workload, folder: Path, method: str, budget: Budget, kept: float, seed: int) -> Row:
    dense, batches = work.dense(seed, folder), Calibration(work.batches(seed), max_samples=None)
    compensate = work.compensate and method != "reinit@mipp"
    small = prune(
        dense,
        batches,
        budget,
        peers()[method],
        exclude=work.exclude,
        compensate=compensate,
        loss_fn=nn.functional.cross_entropy,
        seed=seed,
        progress=False,
    )
    pixels: Sequence[int] = ()
    train, test = work.train, work.test
    shape = tuple(train.images.shape[2:])
    if kept < 1:
        chosen = select_inputs(small.model, batches, num_features=round(kept * shape[0] * shape[1]), seed=seed)
        pixels = chosen.kept
        train, test = (_only(data, torch.from_numpy(chosen.mask)) for data in (train, test))
    seen = replace(work, train=train, test=test)
    stage = "refitted" if compensate else "pruned"
    stages: dict[str, Any] = {stage: seen.measure(small.model)["accuracy"]}
    for name, recipe in work.trainings_after().items():
        trained = copy.deepcopy(small.model)
        recipe(trained, train, seed)
        stages[f"{stage}, {name}"] = seen.measure(trained)["accuracy"]
    collapsed = list(small.plan.collapsed)
    return {
        "accuracy": stages,
        "pixels": list(pixels),
        "shape": list(shape),
        "collapsed": collapsed,
        "device": str(device_of(dense)),
    }


def _only(data: ImageData, mask: torch.Tensor) -> ImageData:
    """Images whose other pixels are black."""
    return replace(data, images=data.images * mask.to(data.images.device))
