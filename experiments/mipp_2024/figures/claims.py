"""Whether the rows say what the paper says about each figure, with the numbers of the result files.

Means are compared over the same budgets and seeds only.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from experiments.mipp_2024.figures.base import Outcome, Row, Verdict, by, good, matched, spread
from experiments.mipp_2024.figures.plots import collapsed, family, normalise, removed, shown
from numpy.typing import NDArray
from scipy.stats import spearmanr

POINTS = 0.5
"""Of accuracy, in percent: differences that are smaller count as none."""
CORRELATION = 0.5
"""Of ranks: a lower one counts as none."""
_MASKS = {"mipp": "MIPP", "hash of the data": "from a hash", "same for all": "the same for all"}
RIVALS = {
    "trained": ("synflow", "grasp", "thinet", "sosph"),
    "untrained": ("synflow", "grasp", "thinet", "reinit@mipp"),
}
"""What version 1 of the paper compares with."""


def better(rows: list[Row]) -> list[Outcome]:
    """Whether MIPP is at least as accurate as the others at each sparsity, at the last stage without refit.

    Sparsities are of the nodes; where no runs were given these, of the MACs.
    """
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        stage, differences = last(own), []
        cost = "nodes" if any("nodes" in r["budget"] for r in own) else "macs"
        for (_,), members in by([r for r in own if cost in r["budget"]], "budget").items():
            means = _means(_of(members, ("mipp", *RIVALS[panel.rpartition(", ")[2]])), stage)
            others = {m: v for m, v in means.items() if m != "mipp"}
            if "mipp" in means and others:
                best = max(others, key=lambda m: others[m])
                differences.append((means["mipp"] - others[best], best, members[0]["budget"][cost]))
        if differences:
            held = sum(d >= -POINTS for d, _, _ in differences)
            least, most = min(differences), max(differences)
            ends = (f"{d[0]:+.2f} against {shown(d[1])} at {1 - d[2]:.0%} removed" for d in (least, most))
            of = "sparsities in MACs" if cost == "macs" else "sparsities"
            words = f"{held} of {len(differences)} {of}; points: {', '.join(ends)}"
            found.append(Outcome(words, f"{panel}, {stage}", _verdict(held, len(differences))))
    return found


def seldom_empty(rows: list[Row], key: str = "budget") -> list[Outcome]:
    """Whether MIPP empties layers least often, of the runs at given fractions of the nodes that all have.

    The paper's perceptrons, which a confidence sizes, should empty none.
    """
    found = []
    for (panel,), all_of_it in by(good(rows), "panel").items():
        own = [r for r in all_of_it if key != "budget" or "nodes" in r["budget"]]
        same = _of(own, ("mipp", *RIVALS[panel.rpartition(", ")[2]]))
        shares = {m: statistics.fmean(map(collapsed, members)) for (m,), members in by(same, "method").items()}
        if "mipp" not in shares or len(shares) < 2:
            continue
        words = ", ".join(f"{shown(m)} {share:.0%}" for m, share in shares.items())
        held = [shares["mipp"] <= min(shares.values())]
        theirs = [r for r in all_of_it if family(r) == "mipp of the paper"]
        if theirs:
            held.append(not any(map(collapsed, theirs)))
            gone = " and ".join(f"{removed(r):.0f} %" for r in theirs)
            words += (
                f"; {shown('mipp of the paper')}, sized by confidence ({gone} removed): "
                f"{sum(map(collapsed, theirs))} of {len(theirs)} runs"
            )
        found.append(Outcome(words, panel, _verdict(sum(held), len(held))))
    return found


def deformed(rows: list[Row]) -> list[Outcome]:
    """Whether deformation costs more accuracy at a tenth of the nodes than at half, before and after training."""
    found = []
    for state in ("untrained", "trained"):
        own = [r for r in good(rows) if f", {state}" in r["panel"]]
        names = list(dict.fromkeys(family(r) for r in own))
        if len(names) != 2:
            continue
        stage = last(own)
        gaps = []
        for nodes in (0.5, 0.1):
            members = [{**r, "panel": state} for r in own if r["budget"].get("nodes") == nodes]  # two of one kind
            means = _means(matched(members, names), stage)
            if len(means) < 2:
                return found
            gaps.append(means[names[0]] - means[names[1]])
        wanted = gaps[1] - gaps[0] > POINTS if state == "untrained" else gaps[1] - gaps[0] <= POINTS
        words = f"deformation costs {gaps[0]:.2f} points at 50 % removed and {gaps[1]:.2f} at 90 %"
        found.append(Outcome(words, f"{state}, {stage}", _verdict(wanted, 1)))
    return found


def collapse_function(rows: list[Row]) -> list[Outcome]:
    """Whether L1 is as good as the other functions."""
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        stage = last(own)
        means = _means(matched(own), stage)
        functions = {k: v for k, v in means.items() if k != "every position"}
        if "l1" in functions:
            words = ", ".join(f"{k} {v:.2f}" for k, v in means.items())
            ok = functions["l1"] >= max(functions.values()) - POINTS
            found.append(Outcome(f"{words}, means over the sparsities", f"{panel}, {stage}", _verdict(ok, 1)))
    return found


def pixels(rows: list[Row]) -> list[Outcome]:
    """Whether MIPP is ahead with a quarter of the pixels and a tenth of the nodes."""
    found = []
    for (panel,), own in by(good(rows, kept=0.25, **{"nodes kept": 0.1}), "panel").items():
        stage = last(own)
        means = _means(matched(own), stage)
        whole = good(rows, panel=panel, kept=1.0, method="mipp", **{"nodes kept": 0.1})
        if "mipp" in means and len(means) > 1:
            ok = means["mipp"] >= max(means.values()) - POINTS
            words = ", ".join(f"{shown(k)} {v:.2f}" for k, v in means.items())
            all_pixels = f"; MIPP with all pixels {statistics.fmean(_values(whole, stage)):.2f}" if whole else ""
            found.append(Outcome(f"{words}{all_pixels}", f"{panel}, {stage}", _verdict(ok, 1)))
    return found


def masks(rows: list[Row]) -> list[Outcome]:
    """Whether rules whose masks tell more about the data leave more accurate networks, at each number of nodes.

    Bits are the plug-in estimate, which no more than the logarithm of the number of tasks can come of.
    """
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        correlations, told = [], []
        for (kept,), members in by(own, "kept").items():
            each = {str(rule): some for (rule,), some in by(members, "rule").items()}
            bits, accuracy = ({r: _mean_of(some, key) for r, some in each.items()} for key in ("bits", "accuracy"))
            if not {"mipp", "hash of the data", "same for all"} <= each.keys():
                continue
            correlations.append(_rank_correlation(list(bits.values()), list(accuracy.values())))
            words = (f"{name} {bits[r]:.1f} bits, {accuracy[r]:.2f} %" for r, name in _MASKS.items())
            told.append(f"{kept} kept: {'; '.join(words)}")
        if told:
            mean = statistics.fmean(correlations)
            words = (
                f"rank correlation of bits (of at most {math.log2(own[0]['tasks']):.0f}) and accuracy over the rules "
                f"{mean:+.2f}; {'. '.join(told)}"
            )
            found.append(Outcome(words, panel, _verdict(mean > CORRELATION, 1)))
    return found


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    found = float(spearmanr(x, y).statistic)
    return found if math.isfinite(found) else 0.0


def pairs(first: str, second: str) -> Callable[[list[Row]], list[Outcome]]:
    """Whether one variant is at least as accurate as another, at every stage, over the runs that both have.

    What a confidence sized is left out: the networks are of different sizes.
    """

    def check(rows: list[Row]) -> list[Outcome]:
        sized = [row for row in good(rows) if row["budget"].keys() - {"min_keep"}]
        runs = [by(good(sized, method=name), "budget", "seed") for name in (first, second)]
        one, other = ([row for key in own if key in runs[0] and key in runs[1] for row in own[key]] for own in runs)
        if not one:
            return []
        stages = [s for s in one[0]["accuracy"] if s != "dense"]
        gaps = {s: statistics.fmean(_values(one, s)) - statistics.fmean(_values(other, s)) for s in stages}
        lost = ""
        if all(row.get("information") for row in (*one, *other)):
            shares = [_lost(members) for members in (one, other)]
            lost = f"; information lost {shares[0]:.1%} against {shares[1]:.1%}"
        words = ", ".join(f"{stage} {gap:+.2f}" for stage, gap in gaps.items())
        held = sum(gap >= -POINTS for gap in gaps.values())
        return [Outcome(f"points of accuracy, {words}{lost}", verdict=_verdict(held, len(gaps)))]

    return check


_CELLS = {
    "equal ratios and random nodes": (True, False),
    "MIPP's ratios": (False, False),
    "MIPP's nodes": (True, True),
    "both": (False, True),
}


def decomposition(rows: list[Row]) -> list[Outcome]:
    """What ratios, identity and the refit add, each with the others on and off."""
    found = []
    for (kept,), own in by([{**row, "kept": round(row["nodes"], 1)} for row in good(rows)], "kept").items():
        for stage in ("pruned", "refitted", "pruned, 5 epochs"):
            cell = {
                words: _values([r for r in own if ("widths" in r["budget"], r["method"] == "mipp") == key], stage)
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
        each = _means(matched(own), stage)
        words = ", ".join(f"{shown(m)} {mean:.2f}" for m, mean in each.items())
        found.append(Outcome(words, f"{panel}, {stage}"))
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
        same = _of(members, ("mipp", "random@mipp", "reinit@mipp", "scratch@mipp"))
        each = {m: statistics.fmean(_values(some, last(some))) for (m,), some in by(same, "method").items()}
        if len(each) > 1:
            words = ", ".join(f"{shown(m)} {mean:.2f}" for m, mean in each.items())
            found.append(Outcome(words, f"{panel}, {last(members)}"))
    return found


def ratios(rows: list[Row], names: Sequence[str]) -> list[Outcome]:
    """What these methods remove of each layer over the mean of the layers, at fractions of the nodes that all have."""
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
    """Which methods remove least and most of each layer over the mean of the layers."""
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


def random_pixels(rows: list[Row]) -> list[Outcome]:
    """Whether selected pixels look random, with a tendency to the right: how many have a selected right neighbour."""
    found = []
    chosen = [row for row in good(rows, method="mipp") if row["pixels"]]
    for (panel,), own in by(chosen, "panel").items():
        told, held = [], []
        for (kept,), members in sorted(by(own, "kept").items(), reverse=True):
            beside, right = (statistics.fmean(map(share, members)) for share in (_beside, _right))
            held += [beside < 1.5 * kept, right > 0.5]
            told.append(
                f"{kept:.0%} of the pixels: {beside:.0%} of the selected have a selected right neighbour (at random "
                f"{kept:.0%}), {right:.0%} are in the right half"
            )
        found.append(Outcome("; ".join(told), panel, _verdict(sum(held), len(held))))
    return found


def _beside(row: Row) -> float:
    chosen = _mask(row)
    return float((chosen[:, :-1] & chosen[:, 1:]).sum() / chosen[:, :-1].sum())


def _right(row: Row) -> float:
    chosen = _mask(row)
    return float(chosen[:, chosen.shape[1] // 2 :].sum() / chosen.sum())


def _mask(row: Row) -> NDArray[np.bool_]:
    chosen = np.zeros(row["shape"], bool)
    chosen.flat[row["pixels"]] = True
    return chosen


def generalises(rows: list[Row]) -> list[Outcome]:
    """Whether MIPP is more accurate than ThiNet, with one guess and with five."""
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        same, held, told = _of(own, ("mipp", "thinet")), [], []
        for metric, words in (("accuracy", "top-1"), ("top-5 accuracy", "top-5")):
            means = _means(same, last(own), metric)
            if len(means) == 2:
                held.append(means["mipp"] > means["thinet"])
                told.append(f"{words} MIPP {means['mipp']:.2f}, ThiNet {means['thinet']:.2f}")
        if told:
            found.append(Outcome("; ".join(told), f"{panel}, {last(own)}", _verdict(sum(held), len(held))))
    return found


def _ranked(rows: Sequence[Row], words: str, *, only_last: bool = False) -> list[Outcome]:
    found = []
    for (panel,), own in by(rows, "panel").items():
        stages = [s for s in own[0]["accuracy"] if s.startswith("pruned")]
        told = []
        for stage in stages[-1:] if only_last else stages:
            known = _means(matched(own), stage)
            if "mipp" in known:
                best = max(known, key=lambda m: known[m])
                told.append(f"{stage}: MIPP {known['mipp']:.2f}, best {shown(best)} {known[best]:.2f} of {len(known)}")
        found += [Outcome("; ".join(told), f"{panel}, {words}")] if told else []
    return found


def last(rows: Sequence[Row]) -> str:
    """The last stage without refit, where there is one."""
    stages = [s for r in rows[:1] for s in r["accuracy"] if s != "dense"]
    return ([s for s in stages if s.startswith("pruned")] or stages)[-1]


def _of(rows: Sequence[Row], methods: Sequence[str]) -> list[Row]:
    """The rows of those of the methods that there are, in the cases that all of these have."""
    return matched(rows, [m for m in methods if good(rows, method=m)])


def _means(rows: Iterable[Row], stage: str, metric: str = "accuracy") -> dict[str, float]:
    """Mean accuracy of each method that has the stage."""
    each = {m: _values(own, stage, metric) for (m,), own in by(rows, "method").items()}
    return {m: statistics.fmean(values) for m, values in each.items() if values}


def _mean_of(rows: Sequence[Row], key: str) -> float:
    return spread([row[key] for row in rows])[0]


def _values(rows: Iterable[Row], stage: str, metric: str = "accuracy") -> list[float]:
    return [row[metric][stage] for row in rows if stage in row.get(metric, ())]


def _lost(rows: Sequence[Row]) -> float:
    """Share of the information that the removed nodes took with them, mean over groups and runs."""
    return statistics.fmean(lost / whole for row in rows for lost, whole in row["information"].values() if whole)


def _verdict(held: float, of: int) -> Verdict:
    return "reproduced" if held == of else "not reproduced" if not held else "in part"
