"""Draws results: the same colour for the same method everywhere, and the number of runs on every plot."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from experiments.mipp_2024.figures.base import Row, by, good, matched, spread

CONFIDENCE = ", confidence "
SPREAD = "means, and as bars standard deviations, over the seeds"
_CASE = ("panel", "method", "rule", "budget", "nodes kept", "kept")
"""What a run is about, besides its seed."""
COLOURS = {
    "mipp": "#d62728", "mipp of the paper": "#ff9896", "sosph": "#1f77b4", "synflow": "#2ca02c", "grasp": "#9467bd",
    "thinet": "#8c564b", "imp": "#e377c2", "oto": "#bcbd22", "snip": "#17becf", "itersnip": "#aec7e8",
    "itergrasp": "#c5b0d5", "prospr": "#98df8a", "l1": "#7f7f7f", "random@mipp": "#000000", "reinit@mipp": "#ffbb78",
    "scratch@mipp": "#dbdb8d", "random": "#c7c7c7",
    "taylor": "#ff7f0e", "mipp, weighed by the outputs": "#f0027f",
}  # fmt: skip
NAMES = {
    "mipp": "MIPP", "mipp of the paper": "MIPP, the paper's MLPs", "sosph": "SOSP-H", "synflow": "SynFlow",
    "grasp": "GraSP", "thinet": "ThiNet", "imp": "IMP", "oto": "OTO", "snip": "SNIP", "itersnip": "IterSNIP",
    "itergrasp": "IterGraSP", "prospr": "ProsPr", "l1": "L1", "random@mipp": "random, MIPP's ratios",
    "reinit@mipp": "MIPP, weights re-drawn", "scratch@mipp": "MIPP's widths, from scratch", "random": "random",
    "taylor": "Taylor", "mipp, weighed by the outputs": "MIPP, weighed by the outputs",
}  # fmt: skip


def family(row: Row) -> str:
    """The method of a row, whatever its confidence."""
    return str(row["method"]).partition(CONFIDENCE)[0]


def shown(name: str) -> str:
    """A method as the plots write it."""
    return NAMES.get(name, name)


@contextmanager
def panels(
    path: Path, rows: int, columns: int, width: float = 4.6, height: float = 3.4, *, caption: str = ""
) -> Iterator[Any]:
    """Axes of a figure that is saved afterwards, shape [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    if caption:
        figure.suptitle(caption, fontsize="x-small", color="dimgrey")
    yield figure.subplots(rows, columns, squeeze=False)
    for axes in figure.axes:
        if not axes.has_data():
            axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def counted(rows: Sequence[Row]) -> str:
    """The number of runs, and of seeds that each of them was done with."""
    each = {len(members) for members in by(rows, *_CASE).values()} or {0}
    seeds = f"{min(each)} to {max(each)}" if len(each) > 1 else f"{max(each)}"
    return f"{len(rows):,} run{'s' * (len(rows) != 1)}, {seeds} seed{'s' * (max(each) != 1)}"


def curve(
    axes: Any,
    rows: Sequence[Row],
    x: Callable[[Row], float],
    y: Callable[[Row], float],
    name: str,
    colour: str | None = None,
) -> None:
    """Means and standard deviations over the seeds: a line through the budgets, and a cross for each confidence."""
    colour = colour or COLOURS.get(name)
    given = [row for row in rows if CONFIDENCE not in row["method"]]
    sized = [row for row in rows if CONFIDENCE in row["method"]]
    words = f"{shown(name)}, sized by confidence"
    _points(axes, given, x, y, color=colour, marker="o", markersize=3, label=shown(name))
    _points(axes, sized, x, y, color=colour, marker="x", markersize=5, linestyle="none", label=words)


def _points(axes: Any, rows: Sequence[Row], x: Callable[[Row], float], y: Callable[[Row], float], **style: Any) -> None:
    points = []
    for members in by(rows, "method", "budget").values():
        mean, deviation = spread([y(row) for row in members])
        points.append((spread([x(row) for row in members])[0], mean, deviation))
    if not points:
        return
    across, up, deviations = zip(*sorted(points), strict=True)
    weight = {"linewidth": 2, "zorder": 3} if style["color"] == COLOURS["mipp"] else {"linewidth": 1}
    axes.errorbar(across, up, yerr=deviations, capsize=2, elinewidth=1, **weight, **style)


def accuracy(rows: list[Row], path: Path, metric: str = "accuracy") -> None:
    """Accuracy against the nodes removed: a line per method, a column for each training, and a row of plots for what is
    pruned and for what is refitted besides, of each panel.

    Bars are standard deviations over the seeds. Crosses are MIPP sized by its confidence. Runs at given MACs or
    parameters are left out where there are others; where there are none, the MACs removed take the place of the nodes.
    """
    rows = [row for row in good(rows) if "nodes" in row]
    rows = [row for (_,), own in by(rows, "panel").items() for row in own if _free(row) or not any(map(_free, own))]
    lines = [(title, stages) for (title,), own in by(rows, "panel").items() for stages in _trainings(own, metric)]
    colours = _colours(list(dict.fromkeys(map(family, rows))))
    with panels(path, len(lines), max(len(stages) for _, stages in lines), caption=SPREAD) as grid:
        for line, (title, stages) in zip(grid, lines, strict=True):
            by_nodes = any(map(_free, good(rows, panel=title)))
            x, words = (removed, "nodes removed, %") if by_nodes else (macs_removed, "MACs removed, %")
            for axes, stage in zip(line, stages, strict=False):
                own = [row for row in good(rows, panel=title) if stage in row[metric]]
                for name in dict.fromkeys(map(family, own)):
                    mine = [row for row in own if family(row) == name]
                    curve(axes, mine, x, lambda row, s=stage: row[metric][s], name, colours[name])
                for of, dense in _dense(own, metric).items() if not title.endswith("untrained") else ():
                    label = "dense" if of is None else f"dense, {of}"
                    colour = next((c for name, c in colours.items() if name.endswith(f", {of}")), "grey")
                    axes.axhline(dense, color=colour, linewidth=0.6, linestyle="--", label=label)
                axes.set(title=f"{title}: {stage}\n{counted(own)}", xlabel=words, ylabel=f"{metric}, %")
                axes.title.set_fontsize("small")
                scale_by_error(axes)
        legend_below(grid)


def _trainings(rows: Sequence[Row], metric: str) -> list[list[str]]:
    """The stages, apart for what is pruned and for what is refitted: each straight after and after each training."""
    found: dict[str, list[str]] = {}
    for stage in _stages(rows, metric):
        found.setdefault(stage.partition(",")[0], []).append(stage)
    return list(found.values())


def _dense(rows: Sequence[Row], metric: str) -> dict[str | None, float]:
    """Accuracy of the dense network (None); where the rows are of several, as on other data, of each by its name."""
    return {name: spread([row[metric]["dense"] for row in own])[0] for (name,), own in by(rows, "dense of").items()}


def scale_by_error(axes: Any) -> None:
    """An axis of percentages on which errors of 10 %, 5 %, 2 % and 1 % are as far apart as their logarithms."""
    ends = 100.5  # just above 100, so that no error is none
    scale = (lambda y: -np.log10(np.clip(ends - y, 0.1, None)), lambda v: ends - 10.0**-v)
    axes.set_yscale("function", functions=scale)
    axes.set(ylim=(0, 100), yticks=(0, 50, 80, 90, 95, 98, 99, 100))


def legend_below(grid: Any) -> None:
    """One legend for all plots of a figure, each name once."""
    shown_once: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown_once.setdefault(label, handle)
    figure = grid.flat[0].figure
    columns = max(4, 4 * grid.shape[1] // 2)
    figure.legend(shown_once.values(), shown_once, fontsize="x-small", loc="outside lower center", ncols=columns)


def guesses(rows: list[Row], path: Path) -> None:
    """Accuracy of one guess and of five, straight after pruning and after each training: a bar per method."""
    rows = good(rows)
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    with panels(path, len(titles), 2, caption=SPREAD) as grid:
        for line, title in zip(grid, titles, strict=True):
            for axes, metric in zip(line, ("accuracy", "top-5 accuracy"), strict=True):
                own = good(rows, panel=title)
                stages = _stages(own, metric)
                for number, name in enumerate(names := list(dict.fromkeys(map(family, own)))):
                    mine = [row for row in own if family(row) == name]
                    found = [spread([row[metric][s] for row in mine if s in row[metric]]) for s in stages]
                    places = [at + 0.8 * number / len(names) for at in range(len(stages))]
                    means, deviations = zip(*found, strict=True)
                    axes.bar(
                        places, means, 0.7 / len(names), yerr=deviations, color=COLOURS.get(name), label=shown(name)
                    )
                axes.set(title=f"{title}\n{counted(own)}", ylabel=f"{metric}, %")
                axes.set_xticks(range(len(stages)), stages, rotation=30, fontsize="x-small")
                axes.legend(fontsize="x-small")


def collapse(rows: list[Row], path: Path) -> None:
    """The share of runs in which a layer was emptied, by 5 % of the nodes removed: a bar per method."""
    rows = [row for row in good(rows) if "nodes" in row]
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    with panels(path, len(titles), 1, width=10, height=2.8) as grid:
        for (axes,), title in zip(grid, titles, strict=True):
            own = good(rows, panel=title)
            names = list(dict.fromkeys(map(family, own)))
            for number, name in enumerate(names):
                cells = bins([row for row in own if family(row) == name])
                places = [start + 5 * (number + 0.5) / len(names) for start in cells]
                shares = [100 * sum(map(collapsed, members)) / len(members) for members in cells.values()]
                axes.bar(places, shares, 4 / len(names), color=COLOURS.get(name), label=shown(name))
                axes.plot(places, [-3] * len(places), "|", color=COLOURS.get(name), markersize=4)
            axes.set(
                title=f"{title}: {counted(own)}; a tick below zero: there were runs in that bin",
                xlabel="nodes removed, %, in bins of 5", ylabel="runs with an empty layer, %", ylim=(-6, 103),
                xticks=range(0, 101, 5),
            )  # fmt: skip
            axes.title.set_fontsize("small")
            axes.grid(axis="x", linewidth=0.3)
            axes.legend(fontsize="xx-small", ncols=2)


def ratios(rows: list[Row], path: Path, names: Sequence[str] | None = None) -> None:
    """The share of nodes removed from each layer over the mean of the layers, a line per method.

    Each run is divided by its own mean, as in the paper; lines are means over the runs at given fractions of the nodes
    that all methods have, or for a method without such runs over all of its own, bands standard deviations.
    """
    rows = [row for row in good(rows) if "keep" in row and (names is None or family(row) in names)]
    rows = [row for (_,), own in by(rows, "panel").items() for row in _at_given_nodes(own)]
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    with panels(path, (len(titles) + 1) // 2, 2, caption="bands: standard deviations over runs and seeds") as grid:
        for axes, title in zip(grid.flat, titles, strict=False):
            own = good(rows, panel=title)
            for name in dict.fromkeys(map(family, own)):
                mine = [values for row in own if family(row) == name and (values := normalise(row))]
                if not mine:
                    continue
                layers = list(own[0]["keep"])
                means, deviations = zip(*(spread([values[layer] for values in mine]) for layer in layers), strict=True)
                at = range(len(layers))
                axes.plot(at, means, marker="o", markersize=3, linewidth=1, color=COLOURS.get(name), label=shown(name))
                band = [[m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1)]
                axes.fill_between(at, *band, color=COLOURS.get(name), alpha=0.08, linewidth=0)
            axes.axhline(1, color="grey", linewidth=0.5)
            axes.set_title(f"{title}: {counted(own)}", fontsize="small")
            axes.set_ylabel("removed / mean of the layers", fontsize="small")
            axes.set_xticks(range(len(own[0]["keep"])), list(own[0]["keep"]), rotation=90, fontsize="xx-small")
        legend_below(grid)


def bars(
    rows: list[Row], path: Path, case: Callable[[Row], str], name: Callable[[Row], str], metric: str = "accuracy"
) -> None:
    """Accuracy at each stage, a bar per name, a plot per case; lines are standard deviations over the seeds."""
    rows = good(rows)
    cases = list(dict.fromkeys(map(case, rows)))
    names = list(dict.fromkeys(map(name, rows)))
    colours = _colours(names)
    with panels(path, (len(cases) + 1) // 2, 2, width=7, caption=SPREAD) as grid:
        for axes, title in zip(grid.flat, cases, strict=False):
            own = [row for row in rows if case(row) == title]
            stages = _stages(own, metric)
            for number, each in enumerate(names):
                found = {
                    at: [row[metric][stage] for row in own if name(row) == each and stage in row[metric]]
                    for at, stage in enumerate(stages)
                }
                places = [at + 0.8 * (number + 0.5) / len(names) - 0.4 for at in found if found[at]]
                if places:
                    means, deviations = zip(*(spread(values) for values in found.values() if values), strict=True)
                    axes.bar(places, means, 0.7 / len(names), yerr=deviations, color=colours[each], label=shown(each))
            axes.set(title=f"{title}: {counted(own)}", ylabel=f"{metric}, %", ylim=(0, 101))
            axes.set_xticks(range(len(stages)), stages, fontsize="x-small")
            axes.title.set_fontsize("small")
        legend_below(grid)


def costs(rows: list[Row], path: Path) -> None:
    """Accuracy at the last stage against nodes, parameters and MACs kept: a row of plots for each panel.

    Each plot shows the runs that were given that cost; where there are none, all.
    """
    rows = [row for row in good(rows) if "nodes" in row]
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    kept = {"nodes": "nodes", "params": "parameters", "macs": "MACs"}
    with panels(path, len(titles), 3, caption=SPREAD) as grid:
        for line, title in zip(grid, titles, strict=True):
            own = good(rows, panel=title)
            stage = [s for s in _stages(own, "accuracy") if s.startswith("pruned")][-1]
            for axes, (cost, words) in zip(line, kept.items(), strict=True):
                given = [row for row in own if cost in row["budget"]]
                chosen, step = (given, 1.03) if given else (own, 1.0)
                names = list(dict.fromkeys(map(family, chosen)))
                for number, each in enumerate(names):
                    mine = [row for row in chosen if family(row) == each]
                    apart = 100 * step ** (number - len(names) / 2)  # side by side where all were given the same
                    curve(axes, mine, lambda r, c=cost, a=apart: a * r[c], lambda r, s=stage: r["accuracy"][s], each)
                axes.set(title=f"{title}: {stage}\n{counted(chosen)}", ylabel="accuracy, %", xscale="log")
                axes.set_xlabel(f"{words} kept, %{'; methods side by side' * bool(given)}", fontsize="small")
                axes.set_xticks((5, 10, 20, 30, 50, 100), ("5", "10", "20", "30", "50", "100"))
                axes.minorticks_off()
                axes.title.set_fontsize("small")
                scale_by_error(axes)
        legend_below(grid)


def epochs(rows: list[Row], path: Path, names: Sequence[str] | None = None) -> None:
    """Accuracy straight after pruning and after 1 and 5 epochs, at three and at one tenth of the nodes."""
    rows = [row for row in good(rows) if row["budget"].get("nodes") in (0.3, 0.1)]
    rows = [row for row in rows if names is None or family(row) in names]
    bars(rows, path, lambda row: f"{row['panel']}, {row['budget']['nodes']:.0%} of the nodes", family)


def _at_given_nodes(rows: Sequence[Row]) -> list[Row]:
    """Of methods with runs at given fractions of the nodes those that all of them have; of others all."""
    given = matched([row for row in rows if "nodes" in row["budget"]])
    return [*given, *(row for row in rows if family(row) not in set(map(family, given)))]


def _free(row: Row) -> bool:
    """True if a run was sized by its nodes, or by a test."""
    return not {"macs", "params"} & row["budget"].keys()


def removed(row: Row) -> float:
    """Nodes removed, in percent."""
    return 100 * (1 - row["nodes"])


def macs_removed(row: Row) -> float:
    """Multiply-accumulates removed, in percent."""
    return 100 * (1 - float(row["macs"]))


def collapsed(row: Row) -> bool:
    """True if a layer was emptied."""
    return bool(row["collapsed"])


def bins(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Rows by the 5 % of nodes removed that they are in."""
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=removed):
        found.setdefault(min(int(removed(row) // 5) * 5, 95), []).append(row)
    return found


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Those of the methods; others get the next of matplotlib's."""
    return {name: COLOURS.get(name, f"C{number % 10}") for number, name in enumerate(names)}


def _stages(rows: Sequence[Row], metric: str) -> list[str]:
    return list(dict.fromkeys(stage for row in rows for stage in row[metric] if stage != "dense"))


def normalise(row: Row) -> dict[str, float]:
    """The share of nodes removed from each layer over the mean of the layers; nothing where none was."""
    gone = {layer: 1 - kept for layer, kept in row["keep"].items()}
    mean = sum(gone.values()) / len(gone)
    return {layer: value / mean for layer, value in gone.items()} if mean else {}
