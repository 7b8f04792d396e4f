"""Claims held against made-up rows whose answer is known."""

import pytest

pytest.importorskip("matplotlib")

from experiments.mipp_2024.figures import claims
from experiments.mipp_2024.figures.claims import SAME_SIZE

STAGE = "pruned, 5 epochs"


def row(method, accuracy, seed, nodes=0.1, panel="lenet5, mnist, trained", **budget):
    return {
        "panel": panel,
        "method": method,
        "seed": seed,
        "budget": budget or {"nodes": nodes, "min_keep": 0},
        "nodes": nodes,
        "accuracy": {"dense": 99.0, STAGE: accuracy},
        "information": {},
    }


def test_one_variant_is_compared_with_each_of_the_others():
    widths = {"widths": {"conv1": 2}, "min_keep": 0}
    rows = [
        row(name, accuracy + 0.01 * seed * (name != "a"), seed, **widths)
        for seed in range(3)
        for name, accuracy in (("a", 95.0), ("b", 94.0), ("c", 95.5))
    ]
    better, worse = claims.pairs("a", "b", "c")(rows)
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert "against 'b'" in better.words
    assert "+0.99" in better.words
    assert "-0.51" in worse.words


def deformed_rows(cost, scratch_cost):
    """Deformation costs one point at half of the nodes, and more at a tenth."""
    rows = []
    for seed in range(3):
        for bent in (False, True):
            words = f"mnist, {'deformed' if bent else 'as it is'}"
            panel = f"lenet5, mnist, trained{', deformed' if bent else ''}"
            for name, more in ((words, cost), (f"{SAME_SIZE}{words}", scratch_cost)):
                rows += [
                    row(name, 98.0 - bent * (lost + 0.01 * seed), seed, nodes, panel)
                    for nodes, lost in ((0.5, 1.0), (0.1, 1.0 + more))
                ]
    return rows


def test_networks_of_the_same_size_from_scratch_show_what_capacity_costs():
    pruned, scratch = claims.deformed(deformed_rows(3.0, 2.0))
    assert pruned.verdict == "contradicted"  # a trained network is said not to be harder to prune
    assert "+3.00" in pruned.words
    assert "from scratch: +2.00" in scratch.words
    assert scratch.verdict is None


def test_without_such_networks_the_claim_stands_alone():
    rows = [r for r in deformed_rows(0.0, 0.0) if not r["method"].startswith(SAME_SIZE)]
    (pruned,) = claims.deformed(rows)
    assert pruned.verdict == "supported"
