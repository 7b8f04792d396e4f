"""Fields of methods are checked, and plans beyond the budget are told."""

import dataclasses

import pytest
import torch
from tasks import kept_by, made_task, relu_chain

import mipp
from mipp.methods import (
    CHIP,
    IMP,
    L1,
    OTO,
    SOSPI,
    GraSP,
    HRank,
    IterGraSP,
    IterSNIP,
    ProsPr,
    Random,
    SynFlow,
    ThiNet,
)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (SynFlow, {"rounds": 0}),
        (IterSNIP, {"rounds": 0}),
        (IterGraSP, {"rounds": -1}),
        (IMP, {"per_round": 0.0}),
        (IMP, {"per_round": 1.0}),
        (IMP, {"rewind": 0.0}),
        (OTO, {"start": 0.0}),
        (OTO, {"ramp": 1.5}),
        (ProsPr, {"learning_rate": 0.0}),
        (ThiNet, {"locations": 0}),
        (SOSPI, {"samples": 0}),
        (HRank, {"samples": 0}),
        (CHIP, {"samples": -1}),
        (GraSP, {"temperature": -1.0}),
    ],
)
def test_settings_out_of_range_are_refused_in_words(method, fields):
    with pytest.raises(mipp.MippError, match=rf"{method.__name__}\(.*{next(iter(fields))}=.*\): expected"):
        method(**fields)


class Greedy(Random):
    """Keeps everything, whatever the budget says."""

    def plan(self, task, budget):
        return task.plan({name: tuple(range(group.size)) for name, group in task.graph.groups.items()}, self, budget)


def test_a_plan_beyond_the_budget_is_told_in_the_report():
    data, budget = [torch.randn(40, 4, dtype=torch.float64)], mipp.Budget(nodes=0.5)
    notes = mipp.prune(relu_chain(), data, budget, Greedy(), progress=False).report.notes
    assert any("returned a plan of 10 nodes, more than the 5 of the budget" in note for note in notes)
    assert not any(
        "more than" in note for note in mipp.prune(relu_chain(), data, budget, L1(), progress=False).report.notes
    )


def test_what_was_measured_for_one_seed_is_not_taken_for_another():
    found = [kept_by(relu_chain(), Random(), seed=seed, nodes=0.5) for seed in (0, 1)]
    task = made_task(relu_chain())
    again = [Random().plan(dataclasses.replace(task, seed=seed), mipp.Budget(nodes=0.5)).kept for seed in (0, 1)]
    assert again == found
