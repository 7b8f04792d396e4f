"""Random choices depend on the seed and on nothing else."""

from tasks import chain, kept_by, relu_chain, task

import mipp
from mipp.methods import (
    Random,
    Task,
    Taylor,
)


def test_random_depends_on_the_seed_and_on_nothing_else():
    model = relu_chain()
    draws = {kept_by(model, Random(), seed=s, widths={"0": 3, "2": 2})["0"] for s in range(8)}
    assert len(draws) > 1
    assert kept_by(model, Random(), seed=3, nodes=0.5) == kept_by(relu_chain(), Random(), seed=3, nodes=0.5)


def test_random_at_the_widths_of_another_method_keeps_other_nodes_and_as_many():
    given = task(chain())
    budget = mipp.Budget(macs=0.5)
    other = Taylor().plan(given, budget)
    plans = [Random(like=Taylor()).plan(Task(**{**vars(given), "seed": s}), budget) for s in range(4)]
    assert all(plan.widths == other.widths for plan in plans)
    assert any(plan.kept != other.kept for plan in plans)
