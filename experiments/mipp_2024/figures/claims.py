"""Claims of the paper held against the rows, with the numbers of the result files.

Methods are compared by `verdicts.compare`: over the budgets and seeds that both have, paired by seed.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from experiments.mipp_2024.figures.base import Outcome, Row, Verdict, by, good, matched
from experiments.mipp_2024.figures.plots import collapsed, family, normalise, removed, shown
from experiments.mipp_2024.figures.rows import last, mean_of, of_methods, share_lost
from experiments.mipp_2024.figures.verdicts import Comparison, Word, compare, compare_counts, mean_interval
from numpy.typing import NDArray
from scipy.stats import spearmanr

POINTS = 0.5
"""Of accuracy, in percent: an interval inside of these shows that two things are level."""
GUESSING = 10.0
"""Accuracy of guessing in percent where there are ten classes."""
_OWN = "the paper's own method"
_DRAWS = "; intervals are over draws of calibration images of one trained network"
_MASKS = {"mipp": "MIPP", "hash of the data": "from a hash", "same for all": "the same for all"}
RIVALS = {
    "trained": ("synflow", "grasp", "thinet", "sosph"),
    "untrained": ("synflow", "grasp", "thinet", "reinit@mipp"),
}
"""The methods that version 1 of the paper compares with."""
LATER = {
    "trained": ("imp", "oto"),
    "untrained": ("snip", "itersnip", "itergrasp", "prospr", "imp", "oto"),
}
"""The methods that its later version adds."""
SAME_SIZE = "from scratch, "
"""What the names of networks of the same size begin with that were trained from scratch on the data named after it."""
WEIGHED = "mipp, weighed by the outputs"
"""The closed form whose nats are worth what losing them does to the outputs (`worth="outputs"`)."""
CLOSED_FORM = "MIPP, in closed form"
"""What rows under the name `mipp` are called where the paper's own method could be meant."""
PAPERS = "mipp of the paper"
"""The paper's own perceptrons, whose widths a confidence decides: no budget, one pass, no refit."""


def better(
    rows: list[Row], rivals: Mapping[str, Sequence[str]] = RIVALS, at: str = "", seeds: str = "", ours: str = "mipp"
) -> list[Outcome]:
    """MIPP in closed form against each rival, at a stage, or the last one without refit.

    A comparison is of the mean over the sparsities that both have; below it stands how many of the sparsities by
    themselves show a difference. Sparsities are of the nodes; where no runs were given these, of the MACs.
    """
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        stage, cost = at or last(own), "nodes" if any("nodes" in r["budget"] for r in own) else "macs"
        given = [r for r in own if cost in r["budget"]]
        named = [name for name in rivals[panel.rpartition(", ")[2]] if good(given, method=name)]
        overall = {name: _compared(given, ours, name, stage) for name in named}
        overall = {name: one for name, one in overall.items() if one is not None}
        if not overall:
            continue
        told = []
        for name, one in overall.items():
            alone = [_compared(members, ours, name, stage) for members in by(given, "budget").values()]
            words = [each.word for each in alone if each is not None]
            counts = [f"{words.count(w)} {w}" for w in ("better", "worse") if words.count(w)]
            each = f" ({', '.join(counts)} of {len(words)} sparsities)" if counts and len(words) > 1 else ""
            told.append(f"{shown(name)} {one}{each}")
        which = CLOSED_FORM if ours == "mipp" else shown(ours)
        words = f"points of {which}, against {'; '.join(told)}; {_sparsities(good(given, method=ours), cost)}{seeds}"
        where = f"{panel}, {stage}" + ("" if ours == "mipp" else f", {shown(ours)}")
        found.append(Outcome(words, where, _together([one.word for one in overall.values()])))
    return found


def _sparsities(rows: Sequence[Row], cost: str) -> str:
    """The sparsities that differences are means over: those that all seeds have, or the only one."""
    of = "MACs" if cost == "macs" else cost
    kept = set.intersection(*({r["budget"][cost] for r in own} for own in by(rows, "seed").values()))
    if len(kept) == 1:
        return f"at {kept.pop():.0%} of the {of}"
    return f"means over the sparsities{' in MACs' if cost == 'macs' else ''}"


def straight_after(rows: list[Row]) -> list[Outcome]:
    """MIPP in closed form against each rival as cut, and all with the same refit; draws take the place of seeds."""
    return [*over_draws(rows, ("pruned", "refitted")), *better(rows, at="refitted", seeds=_DRAWS, ours=WEIGHED)]


def over_draws(rows: list[Row], stages: Sequence[str]) -> list[Outcome]:
    """MIPP in closed form against each rival at some stages; draws take the place of seeds."""
    return [one for stage in stages for one in better(rows, at=stage, seeds=_DRAWS)]


def untrained(rows: list[Row]) -> list[Outcome]:
    """Emptied layers, and the thirds of the depth that each method removes more of than it does on average."""
    found = seldom_empty(rows)
    for (panel,), own in by(good(rows), "panel").items():
        given = [r for r in own if "nodes" in r["budget"]]
        told = [f"{shown(m)} {_thirds(members)}" for (m,), members in by(given, "method").items()]
        words = f"removed over the mean of the layers, first, middle and last third of them: {'; '.join(told)}"
        found.append(Outcome(words, panel))
        sized = [r for r in own if family(r) == "mipp" and r not in given]
        if sized:
            gone = sorted(map(removed, sized))
            tests = f"{len(sized)} confidence{'s' * (len(sized) != 1)}"
            text = f"sized by {tests}: {gone[0]:.0f} to {gone[-1]:.0f} % of the nodes removed, "
            found.append(Outcome(f"{text}{sum(map(collapsed, sized))} of them emptied a layer", panel))
    return found


def _thirds(rows: Sequence[Row]) -> str:
    shares = [list(share.values()) for row in rows if (share := normalise(row))]
    means = np.array_split(np.mean(shares, axis=0), 3)
    return ", ".join(f"{part.mean():.2f}" for part in means)


def papers_own(rows: list[Row], rivals: Mapping[str, Sequence[str]] = RIVALS) -> list[Outcome]:
    """The paper's own method, whose test decides its size, against each rival at the nearest sizes on either side.

    Worse is what loses to a rival that keeps no more nodes; better, what wins against one that keeps no fewer.
    """
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        stage, told = last(own), {}
        theirs = [row for row in own if family(row) == PAPERS]
        for name in rivals[panel.rpartition(", ")[2]]:
            peers = [row for row in good(own, method=name) if stage in row["accuracy"]]
            if theirs and peers:
                told[name] = [_beside(theirs, peers, stage, larger=larger) for larger in (False, True)]
        if any(one is not None for pair in told.values() for one in pair):
            words = [
                _one_sided(*(one.word if one else "no difference shown" for one in pair)) for pair in told.values()
            ]
            each = [f"{shown(name)} {_either_side(*pair)}" for name, pair in told.items() if any(pair)]
            text = f"points of {_OWN} against {'; '.join(each)}"
            found.append(Outcome(text, f"{panel}, {stage}, {_OWN}", _together(words)))
    return found


def _one_sided(smaller: Word, larger: Word) -> Word:
    """Worse than a rival that has no advantage in size, or better than one that has no disadvantage."""
    return "worse" if smaller == "worse" else "better" if larger == "better" else "no difference shown"


def _either_side(smaller: Comparison | None, larger: Comparison | None) -> str:
    told = ((smaller, "with as many nodes or fewer"), (larger, "with as many or more"))
    return ", ".join(f"{words} {one}" for one, words in told if one is not None)


def methods(rows: list[Row]) -> list[Outcome]:
    """Both curves called MIPP, each with a verdict of its own, against version 1's rivals and the later version's."""
    later = [outcome._replace(where=f"{outcome.where}, the later version's rivals") for outcome in better(rows, LATER)]
    return [*better(rows), *papers_own(rows), *later]


def papers_own_and_collapse(rows: list[Row]) -> list[Outcome]:
    """The paper's own method against its rivals, in accuracy and in how many runs emptied a layer."""
    return [*papers_own(rows), *(outcome for outcome in seldom_empty(rows) if outcome.where.endswith(_OWN))]


def _beside(rows: Sequence[Row], rivals: Sequence[Row], stage: str, *, larger: bool) -> Comparison | None:
    """Runs against the rival's of their seed that is nearest in size, of those with no fewer nodes or no more."""
    pairs = [(row, _nearest(row, rivals, larger=larger)) for row in rows]
    each = [(row["seed"], row["accuracy"][stage], peer["accuracy"][stage]) for row, peer in pairs if peer is not None]
    seeds = [[(a, b) for s, a, b in each if s == seed] for seed in dict.fromkeys(one[0] for one in each)]
    if not seeds:
        return None
    return compare([[a for a, _ in s] for s in seeds], [[b for _, b in s] for s in seeds], GUESSING)


def _nearest(row: Row, rivals: Sequence[Row], *, larger: bool) -> Row | None:
    """The rival of the same seed that is nearest in size, of those that keep no fewer nodes, or no more."""
    own = [r for r in rivals if r["seed"] == row["seed"]]
    fit = [r for r in own if (r["nodes"] >= row["nodes"] if larger else r["nodes"] <= row["nodes"])]
    return min(fit, key=lambda r: abs(r["nodes"] - row["nodes"]), default=None)


def seldom_empty(rows: list[Row], key: str = "budget") -> list[Outcome]:
    """Shares of runs with an emptied layer, at given fractions of the nodes; the exact sign test on paired runs."""
    found = []
    for (panel,), all_of_it in by(good(rows), "panel").items():
        own = [r for r in all_of_it if key != "budget" or "nodes" in r["budget"]]
        same = of_methods(own, ("mipp", *RIVALS[panel.rpartition(", ")[2]]))
        each = {m: members for (m,), members in by(same, "method").items()}
        if "mipp" not in each or len(each) < 2:
            continue
        words = {m: compare_counts(*_paired_collapses(each["mipp"], some)) for m, some in each.items() if m != "mipp"}
        told = [
            f"{shown(m)} {statistics.fmean(map(collapsed, some)):.0%}{f' ({words[m]})' if m in words else ''}"
            for m, some in each.items()
        ]
        found.append(Outcome(f"{', '.join(told)}, of {len(each['mipp'])} runs each", panel, _together(words.values())))
        theirs = [r for r in all_of_it if family(r) == PAPERS]
        if theirs:
            gone = " and ".join(f"{removed(r):.0f} %" for r in theirs)
            emptied = sum(map(collapsed, theirs))
            text = f"sized by confidence ({gone} removed), {emptied} of {len(theirs)} runs emptied a layer"
            each = _emptied_beside(theirs, [r for r in all_of_it if "nodes" in r["budget"]])
            verdicts = "".join(f"; against {shown(m)}: {word}" for m, word in each.items())
            found.append(Outcome(f"{text}{verdicts}{_doubt(theirs)}", f"{panel}, {_OWN}", _together(each.values())))
    return found


def _emptied_beside(theirs: Sequence[Row], rows: Sequence[Row]) -> dict[str, Word]:
    """The word on each rival of about their size, by how often runs of the paper's own method empty a layer."""
    found: dict[str, Word] = {}
    for name in RIVALS[theirs[0]["panel"].rpartition(", ")[2]]:
        each: list[Word] = []
        for larger in (False, True):
            pairs = [(row, _nearest(row, good(rows, method=name), larger=larger)) for row in theirs]
            both = [(collapsed(row), collapsed(peer)) for row, peer in pairs if peer is not None]
            each.append(compare_counts([a for a, _ in both], [b for _, b in both]))
        if good(rows, method=name):
            found[name] = _one_sided(*each)
    return found


def _paired_collapses(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[list[bool], list[bool]]:
    def keyed(rows: Sequence[Row]) -> dict[str, bool]:
        return {_case(r, "seed"): collapsed(r) for r in rows}

    one, other = keyed(ours), keyed(theirs)
    return [one[k] for k in one if k in other], [other[k] for k in one if k in other]


def _doubt(rows: Sequence[Row]) -> str:
    """A sentence where perceptrons were overfitted: their held-out information of a layer is below zero."""
    below = sum(any(whole < 0 for _, whole in row.get("information", {}).values()) for row in rows)
    if not below:
        return ""
    return f"; in {below} of them the held-out information of a layer is below zero, so the perceptrons were overfitted"


def deformed(rows: list[Row]) -> list[Outcome]:
    """The extra cost of deformation at a tenth of the nodes over half, paired by seed, before and after training.

    At a twentieth and a tenth of the nodes capacity is confounded with difficulty: a network of that size learns less.
    Networks of the same sizes that were trained from scratch show by how much.
    """
    found = []
    for state in ("untrained", "trained"):
        state_rows = [r for r in good(rows) if f", {state}" in r["panel"]]
        own = [r for r in state_rows if not r["method"].startswith(SAME_SIZE)]
        names = list(dict.fromkeys(family(r) for r in own))
        if len(names) != 2:
            continue
        stage = last(own)
        gaps = {nodes: _gaps(own, names, nodes, stage) for nodes in (0.5, 0.1)}
        more = _added(gaps)
        if not more:
            return found
        low, high = mean_interval(more)
        if state == "untrained":
            verdict = _claim(low > 0, high < 0)
        else:
            verdict = _claim(low > -POINTS and high < POINTS, low > 0)
        means = [statistics.fmean(gaps[nodes].values()) for nodes in (0.5, 0.1)]
        words = (
            f"deformation costs {means[0]:.2f} points at 50 % removed and {means[1]:.2f} at 90 %: "
            f"{statistics.fmean(more):+.2f} {_interval(low, high)}"
        )
        found.append(Outcome(words, f"{state}, {stage}", verdict))
        scratch = [r for r in state_rows if r["method"].startswith(SAME_SIZE)]
        sizes = {n: _gaps(scratch, [f"{SAME_SIZE}{name}" for name in names], n, stage) for n in (0.5, 0.1)}
        alone = _added(sizes)
        if len(alone) > 1:
            text = f"networks of the same sizes from scratch: {statistics.fmean(alone):+.2f} "
            found.append(Outcome(text + _interval(*mean_interval(alone)), f"{state}, {stage}"))
    return found


def _gaps(rows: Sequence[Row], names: Sequence[str], nodes: float, stage: str) -> dict[int, float]:
    """Accuracy of the first of two names over the second at a fraction of the nodes, by seed."""
    members = [{**r, "panel": ""} for r in rows if r["budget"].get("nodes") == nodes]  # the two are of two panels
    if not all(good(members, method=name) for name in names):
        return {}
    one, other = (
        {r["seed"]: r["accuracy"][stage] for r in matched(members, names) if r["method"] == name} for name in names
    )
    return {seed: one[seed] - other[seed] for seed in one}


def _added(gaps: Mapping[float, Mapping[int, float]]) -> list[float]:
    """The gap at a tenth over that at a half, for the seeds that have both."""
    return [gaps[0.1][seed] - gaps[0.5][seed] for seed in sorted(gaps[0.5].keys() & gaps[0.1].keys())]


def collapse_function(rows: list[Row]) -> list[Outcome]:
    """L1 against each of the other functions, means over the sparsities."""
    return _against(rows, "l1", ("l2", "mean", "std", "every position"), f"{CLOSED_FORM} and with L1")


def pixels(rows: list[Row]) -> list[Outcome]:
    """MIPP against each rival with a quarter of the pixels and a tenth of the nodes."""
    few = good(rows, kept=0.25, **{"nodes kept": 0.1})
    return _against(few, "mipp", ("synflow", "grasp", "thinet", "sosph", "reinit@mipp"), CLOSED_FORM)


def _against(rows: Sequence[Row], first: str, others: Sequence[str], name: str) -> list[Outcome]:
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        stage = last(own)
        each = {m: _compared(own, first, m, stage) for m in others if good(own, method=m)}
        told = {m: one for m, one in each.items() if one is not None}
        if told:
            words = f"points of {name}, against {'; '.join(f'{shown(m)} {one}' for m, one in told.items())}"
            found.append(Outcome(words, f"{panel}, {stage}", _together([one.word for one in told.values()])))
    return found


def masks(rows: list[Row]) -> list[Outcome]:
    """Rank correlation, over rules, of what masks tell about the data and of accuracy, per seed and number of nodes.

    Bits are the plug-in estimate, which is at most the logarithm of the number of tasks. Where accuracies span less
    than a point, ranks are mostly chance: the span is told.
    """
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        by_seed: dict[int, list[float]] = {}
        told = []
        for (kept,), members in by(own, "kept").items():
            each = {str(rule): some for (rule,), some in by(members, "rule").items()}
            if not {"mipp", "hash of the data", "same for all"} <= each.keys():
                continue
            for (seed,), some in by(members, "seed").items():
                correlation = _rank_correlation([r["bits"] for r in some], [r["accuracy"] for r in some])
                by_seed.setdefault(seed, []).append(correlation)
            bits, accuracy = ({r: mean_of(some, key) for r, some in each.items()} for key in ("bits", "accuracy"))
            span = max(accuracy.values()) - min(accuracy.values())
            words = (f"{name} {bits[r]:.1f} bits, {accuracy[r]:.2f} %" for r, name in _MASKS.items())
            told.append(f"{kept} kept: {'; '.join(words)} (all rules within {span:.2f} points)")
        if told:
            each_seed = [statistics.fmean(values) for values in by_seed.values()]
            low, high = mean_interval(each_seed)
            words = (
                f"rank correlation of bits (of at most {math.log2(own[0]['tasks']):.0f}) and accuracy over the rules "
                f"{statistics.fmean(each_seed):+.2f} {_interval(low, high)}; {'. '.join(told)}"
            )
            found.append(Outcome(words, panel, _claim(low > 0, high < 0)))
    return found


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    found = float(spearmanr(x, y).statistic)
    return found if math.isfinite(found) else 0.0


def pairs(first: str, *others: str) -> Callable[[list[Row]], list[Outcome]]:
    """One variant against others at every stage, over the runs that both have, at equal widths where there are such.

    What a confidence sized is left out: the networks are of different sizes.
    """

    def check(rows: list[Row]) -> list[Outcome]:
        found = []
        for equal, words in ((True, "equal widths"), (False, "widths of their own")):
            own = [r for r in good(rows) if r["budget"].keys() - {"min_keep"} and ("widths" in r["budget"]) == equal]
            stages = [s for r in own[:1] for s in r["accuracy"] if s != "dense"]
            for second in others:
                each = {s: _compared(own, first, second, s) for s in stages}
                told = {s: one for s, one in each.items() if one is not None}
                if told:
                    text = ", ".join(f"{stage} {one}" for stage, one in told.items())
                    verdict = _together([one.word for one in told.values()]) if equal else None
                    against = f"points of accuracy against '{second}', {text}{_lost_of(own, first, second)}"
                    found.append(Outcome(against, words, verdict))
        return found

    return check


def _lost_of(rows: Sequence[Row], *names: str) -> str:
    each = [good(rows, method=name) for name in names]
    if not all(row.get("information") for some in each for row in some):
        return ""
    return f"; information lost {' against '.join(f'{share_lost(some):.1%}' for some in each)}"


def random_pixels(rows: list[Row]) -> list[Outcome]:
    """The numbers of selected pixels with a selected right neighbour, and in the right half."""
    found = []
    chosen = [row for row in good(rows, method="mipp") if row["pixels"]]
    for (panel,), own in by(chosen, "panel").items():
        told, held = [], []
        for (kept,), members in sorted(by(own, "kept").items(), reverse=True):
            beside, right = (statistics.fmean(map(share, members)) for share in (_neighbours, _right))
            held += [beside < 1.5 * kept, right > 0.5]
            told.append(
                f"{kept:.0%} of the pixels: {beside:.0%} of the selected have a selected right neighbour (at random "
                f"{kept:.0%}), {right:.0%} are in the right half"
            )
        found.append(Outcome("; ".join(told), panel, _claim(all(held), not any(held))))
    return found


def _neighbours(row: Row) -> float:
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
    """MIPP against ThiNet, with one guess and with five."""
    found = []
    for (panel,), own in by(good(rows), "panel").items():
        stage = last(own)
        each = {
            words: _compared(own, "mipp", "thinet", stage, metric)
            for metric, words in (("accuracy", "top-1"), ("top-5 accuracy", "top-5"))
        }
        told = {words: one for words, one in each.items() if one is not None}
        if told:
            text = "; ".join(f"{words} {one}" for words, one in told.items())
            found.append(Outcome(text, f"{panel}, {stage}", _together([one.word for one in told.values()])))
    return found


def _compared(rows: Sequence[Row], first: str, second: str, stage: str, metric: str = "accuracy") -> Comparison | None:
    """One method against another over the seeds that both have, and the cases that all of these have; None without."""
    one, other = (
        {
            seed: {_case(r): r[metric][stage] for r in members}
            for (seed,), members in by(
                [r for r in good(rows, method=name) if stage in r.get(metric, ())], "seed"
            ).items()
        }
        for name in (first, second)
    )
    shared = {s: one[s].keys() & other[s].keys() for s in one if s in other}
    shared = {s: cases for s, cases in shared.items() if cases}
    cases = sorted(set.intersection(*map(set, shared.values()))) if shared else []
    if not cases:
        return None
    pairs = [[(one[s][case], other[s][case]) for case in cases] for s in shared]
    guessing = 0.0 if metric != "accuracy" else 1.0 if "cifar100" in rows[0].get("panel", "") else GUESSING
    return compare([[a for a, _ in some] for some in pairs], [[b for _, b in some] for some in pairs], guessing)


def _case(row: Row, *more: str) -> str:
    """The settings that runs of two methods share, as text."""
    return json.dumps([row.get(name) for name in ("budget", "nodes kept", "kept", *more)])


def _together(words: Iterable[Word]) -> Verdict:
    """Worse where any rival shows it, better where all do."""
    each = list(words)
    return "worse" if "worse" in each else "better" if set(each) == {"better"} else "no difference shown"


def _claim(supported: bool, contradicted: bool) -> Verdict:  # noqa: FBT001
    return "supported" if supported else "contradicted" if contradicted else "not shown"


def _interval(low: float, high: float) -> str:
    return f"[{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else "(one seed: no interval)"
