"""Measurements without a verdict: questions that reviewers asked, and tables of numbers."""

import statistics
from collections.abc import Sequence

from experiments.mipp_2024.figures.base import Outcome, Row, by, good, matched
from experiments.mipp_2024.figures.plots import normalise, shown
from experiments.mipp_2024.figures.rows import accuracies, last, mean_accuracy, of_methods

_CELLS = {
    "equal ratios and random nodes": (True, False),
    "MIPP's ratios": (False, False),
    "MIPP's nodes": (True, True),
    "both": (False, True),
}


def decomposition(rows: list[Row]) -> list[Outcome]:
    """Accuracy with ratios, identity and the refit, each with the others on and off."""
    found = []
    for (kept,), own in by([{**row, "kept": round(row["nodes"], 1)} for row in good(rows)], "kept").items():
        for stage in ("pruned", "refitted", "pruned, 5 epochs"):
            cell = {
                words: accuracies([r for r in own if ("widths" in r["budget"], r["method"] == "mipp") == key], stage)
                for words, key in _CELLS.items()
            }
            if all(cell.values()):
                words = ", ".join(f"{words} {statistics.fmean(values):.2f}" for words, values in cell.items())
                found.append(Outcome(words, f"{kept:.0%} kept, {stage}"))
    return found


def discovery(rows: list[Row]) -> list[Outcome]:
    """Seconds of the selection."""
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        seconds = {r["method"]: r["seconds"]["selection"] for r in own}
        ours, theirs = seconds.get("MIPP, Gaussian"), seconds.get("MIPP, the paper's MLPs")
        if ours and theirs:
            ratio = f"÷ {theirs / ours:,.0f}"
            words = f"{theirs:.1f} s with the paper's MLPs, {ours:.2f} s in closed form: {ratio}"
            found.append(Outcome(words, panel))
    return found


def means(rows: list[Row], stage: str = "refitted") -> list[Outcome]:
    """Mean accuracy of each method in each panel."""
    found = []
    for (panel,), own in by([r for r in good(rows) if stage in r["accuracy"]], "panel").items():
        each = mean_accuracy(matched(own), stage)
        words = ", ".join(f"{shown(m)} {mean:.2f}" for m, mean in each.items())
        found.append(Outcome(words, f"{panel}, {stage}"))
    return found


def at_each_sparsity(rows: list[Row], stage: str) -> list[Outcome]:
    """Accuracies at each sparsity at a stage, of methods that have all of MIPP's draws, beside the dense one's."""
    found = []
    for (panel,), of_panel in by(good(rows), "panel").items():
        (dense,) = {round(row["accuracy"]["dense"], 2) for row in of_panel}
        for (_,), own in by(of_panel, "budget").items():
            draws = {m: {row["seed"] for row in some} for (m,), some in by(own, "method").items()}
            some = of_methods(own, [m for m in draws if draws[m] >= draws.get("mipp", set())])
            each = ", ".join(f"{shown(m)} {mean:.2f}" for m, mean in mean_accuracy(some, stage).items())
            words = f"{each}; the dense network, trained once, has {dense:.2f} %"
            found.append(Outcome(words, f"{panel}, {stage}, {own[0]['budget']['nodes']:.0%} of the nodes"))
    return found


def short(rows: list[Row]) -> list[Outcome]:
    """The best method at a tenth of the nodes, at each stage, and MIPP."""
    return _ranked([r for r in good(rows) if r["budget"].get("nodes") == 0.1], "a tenth of the nodes")


def at_equal_cost(rows: list[Row]) -> list[Outcome]:
    """The best method at the same MACs and at the same parameters, and MIPP, after the longest training."""
    found = []
    for cost, words in (("macs", "the same MACs"), ("params", "the same parameters")):
        own = [r for r in good(rows) if cost in r["budget"]]
        found += _ranked(own, words, only_last=True)
    return found


def controls(rows: list[Row]) -> list[Outcome]:
    """MIPP and its controls at a tenth of the nodes."""
    found = []
    own = [r for r in good(rows) if r["budget"].get("nodes") == 0.1]
    for (panel,), members in by(own, "panel").items():
        same = of_methods(members, ("mipp", "random@mipp", "reinit@mipp", "scratch@mipp"))
        each = {m: statistics.fmean(accuracies(some, last(some))) for (m,), some in by(same, "method").items()}
        if len(each) > 1:
            words = ", ".join(f"{shown(m)} {mean:.2f}" for m, mean in each.items())
            found.append(Outcome(words, f"{panel}, {last(members)}"))
    return found


def ratios(rows: list[Row], names: Sequence[str]) -> list[Outcome]:
    """Share that these methods remove of each layer over the mean of the layers, at fractions that all have."""
    found = []
    for panel, each in _normalised(rows).items():
        told = [
            f"{shown(method)} {', '.join(f'{layer} {value:.2f}' for layer, value in layers.items())}"
            for method, layers in each.items()
            if method in names
        ]
        found += [Outcome(f"removed over the mean of the layers, {'; '.join(told)}", panel)] if told else []
    return found


def extremes(rows: list[Row]) -> list[Outcome]:
    """Methods that remove least and most of each layer over the mean of the layers."""
    found = []
    for panel, each in _normalised(rows).items():
        told = []
        for layer in next(iter(each.values())):
            ends = (pick(each, key=lambda m, at=layer: each[m][at]) for pick in (min, max))
            told.append(f"{layer} {' to '.join(f'{each[m][layer]:.2f} ({shown(m)})' for m in ends)}")
        found.append(Outcome(f"removed over the mean of the layers, {', '.join(told)}", panel))
    return found


def _normalised(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """By panel, method and layer: what is removed over the mean of the layers, mean over the runs that all have."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (panel,), own in by([r for r in good(rows) if "nodes" in r["budget"]], "panel").items():
        for (method,), members in by(matched(own), "method").items():
            shares = [share for row in members if (share := normalise(row))]
            layers = {layer: statistics.fmean(s[layer] for s in shares) for layer in shares[0]}
            found.setdefault(panel, {})[method] = layers
    return found


def _ranked(rows: Sequence[Row], words: str, *, only_last: bool = False) -> list[Outcome]:
    found = []
    for (panel,), own in by(rows, "panel").items():
        stages = [s for s in own[0]["accuracy"] if s.startswith("pruned")]
        told = []
        for stage in stages[-1:] if only_last else stages:
            known = mean_accuracy(matched(own), stage)
            if "mipp" in known:
                best = max(known, key=lambda m: known[m])
                told.append(f"{stage}: MIPP {known['mipp']:.2f}, best {shown(best)} {known[best]:.2f} of {len(known)}")
        found += [Outcome("; ".join(told), f"{panel}, {words}")] if told else []
    return found
