"""Claims held against made-up rows whose answer is known."""

import pytest

pytest.importorskip("matplotlib")

from experiments.mipp_2024.figures import claims, measurements
from experiments.mipp_2024.figures.claims import SAME_SIZE
from experiments.mipp_2024.figures.registry import FIGURES

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


def once_rows(lead):
    """MIPP beside one rival, straight after and refitted, on three draws and two sparsities."""
    return [
        row(name, 0.0, draw, nodes, "vgg11, cifar10, trained")
        | {"accuracy": {"dense": 88.0, "pruned": 50 + more + 0.01 * draw * more, "refitted": 80 + lead * (more > 0)}}
        for draw in range(3)
        for nodes in (0.3, 0.1)
        for name, more in (("mipp", 20.0), ("thinet", 0.0))
    ]


def test_networks_that_are_trained_once_are_judged_as_cut_and_with_the_same_refit():
    pruned, refitted = claims.straight_after(once_rows(-1.0))
    assert (pruned.verdict, pruned.where) == ("better", "vgg11, cifar10, trained, pruned")
    assert (refitted.verdict, refitted.where) == ("worse", "vgg11, cifar10, trained, refitted")
    assert "draws of calibration images of one trained network" in pruned.words


def test_networks_that_are_trained_for_an_epoch_after_pruning_are_judged_by_that_as_cut_and_refitted():
    rows = [{**r, "accuracy": {f"{k}, 1 epoch": v for k, v in r["accuracy"].items()}} for r in once_rows(-1.0)]
    for r in rows:
        r["accuracy"]["dense"] = 88.0
    pruned, refitted, *each = FIGURES["retrained"].outcome(rows)
    assert (pruned.verdict, pruned.where) == ("better", "vgg11, cifar10, trained, pruned, 1 epoch")
    assert (refitted.verdict, refitted.where) == ("worse", "vgg11, cifar10, trained, refitted, 1 epoch")
    assert [outcome.words[:29] for outcome in each[2:]] == ["MIPP 79.00, ThiNet 80.00; the"] * 2


def test_a_network_of_a_hundred_classes_is_dead_at_one_percent():
    def rows(accuracy):
        return [r | {"panel": "vgg19, cifar100-10000, trained"} | {"accuracy": accuracy} for r in once_rows(0.0)]

    alive = claims.straight_after(rows({"dense": 40.0, "pruned": 5.0, "refitted": 9.0}))
    assert not any("dead" in outcome.words for outcome in alive)
    assert all("dead" in outcome.words for outcome in claims.straight_after(rows({"pruned": 1.2, "refitted": 1.2})))


def test_networks_before_training_are_judged_by_their_layers():
    def untrained(method, kept, collapsed, nodes, **budget):
        keep = {f"layer{i}": share for i, share in enumerate(kept)}
        more = {"keep": keep, "collapsed": collapsed}
        return row(method, 10.0, 0, nodes, "vgg11, cifar10, untrained", **budget) | more

    rows = [untrained("mipp", (0.8, 0.5, 0.2), [], nodes) for nodes in (0.5, 0.4, 0.3, 0.2, 0.1, 0.05)]
    rows += [untrained("grasp", (0.5, 0.9, 0.1), ["layer2"], r["nodes"]) for r in rows]
    rows += [untrained("mipp, confidence 0.5", (0.9, 0.9, 0.3), [], 0.7, min_keep=0)]
    collapse, thirds, sized = claims.untrained(rows)
    assert collapse.verdict == "better"
    assert "MIPP 0%, GraSP 100%" in collapse.words
    assert "MIPP 0.40, 1.00, 1.60; GraSP 1.00, 0.20, 1.80" in thirds.words
    assert "sized by 1 confidence: 30 to 30 % of the nodes removed, 0 of them emptied a layer" in sized.words


def partial_rows(lead):
    """MIPP beside a rival at three tenths of the nodes on three draws, and at a tenth on the first of them only."""
    cases = [(seed, 0.3, lead) for seed in range(3)] + [(0, 0.1, -40.0)]
    return [
        row(name, 80.0 + (ahead + 0.01 * seed) * (name == "mipp"), seed, nodes)
        for seed, nodes, ahead in cases
        for name in ("mipp", "synflow")
    ]


def test_seeds_are_compared_on_the_sparsities_that_all_of_them_have():
    (told,) = claims.better(partial_rows(2.0))
    assert told.verdict == "better"
    assert "SynFlow +2.01" in told.words
    assert told.words.endswith("at 30% of the nodes")


PAPERS = "mipp of the paper, confidence 0.9"


def sized_rows(own, smaller, larger, emptied=()):
    """The paper's own method at two tenths of the nodes, beside a rival with a tenth and with three tenths."""
    return [
        row(name, accuracy + 0.1 * seed * (name == PAPERS), seed, nodes) | {"collapsed": list(gone)}
        for seed in range(6)
        for name, nodes, accuracy, gone in (
            (PAPERS, 0.2, own, emptied),
            ("thinet", 0.1, smaller, ()),
            ("thinet", 0.3, larger, ()),
            ("mipp", 0.1, 90.0, ()),
        )
    ]


@pytest.mark.parametrize(("own", "verdict"), [(98.0, "better"), (96.0, "no difference shown"), (94.0, "worse")])
def test_size_is_no_excuse_and_no_merit_of_a_network_that_a_test_has_sized(own, verdict):
    """It is better only than what keeps as many nodes, and worse only than what keeps no more."""
    (told,) = claims.papers_own(sized_rows(own, smaller=95.0, larger=97.0))
    assert told.verdict == verdict


def test_layers_that_the_papers_own_method_empties_are_counted_beside_those_of_its_rivals():
    accuracy, collapse = claims.papers_own_and_collapse(sized_rows(94.0, 95.0, 97.0, emptied=["conv1"]))
    assert accuracy.where.endswith("the paper's own method")
    assert collapse.verdict == "worse"
    assert "6 of 6 runs emptied a layer; against ThiNet: worse" in collapse.words
    _, fine = claims.papers_own_and_collapse(sized_rows(94.0, 95.0, 97.0))
    assert fine.verdict == "no difference shown"


def test_accuracies_stand_beside_that_of_the_dense_network():
    fewer_draws = row("l1", 0.0, 0, 0.3, "vgg11, cifar10, trained") | {"accuracy": {"dense": 88.0, "refitted": 70.0}}
    first, second = measurements.at_each_sparsity([*once_rows(2.0), fewer_draws], "refitted")
    assert first.where == "vgg11, cifar10, trained, refitted, 30% of the nodes"
    assert first.words.startswith("MIPP 82.00, ThiNet 80.00; the dense network")
    assert "has 88.00 %" in second.words
