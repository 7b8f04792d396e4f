"""A task: results that serve several budgets, and steps that an interrupted run has behind it."""

from dataclasses import replace

import torch
from tasks import chain, task

from mipp.plan.budget import Budget
from mipp.runtime.record import Notes


def test_what_one_budget_measured_serves_the_next_with_its_notes():
    first = task(chain())
    second = replace(first, notes=Notes())
    calls = []

    def measure(which):
        def compute():
            calls.append(which)
            which.notes.append("measured")
            return 7

        return compute

    assert first.once("key", measure(first)) == second.once("key", measure(second)) == 7
    assert calls == [first]
    assert list(first.notes) == list(second.notes) == ["measured"]
    assert replace(first, seed=1).once("key", lambda: 8) == 8


def test_a_step_that_is_noted_is_not_done_again():
    given = replace(task(chain()), finished={"first": 1})
    assert given.step("first", lambda: 1 / 0) == 1
    assert given.step("second", lambda: 2) == 2
    assert given.finished == {"first": 1, "second": 2}


def test_a_plan_names_the_method_and_the_budget():
    given = task(chain())
    kept = {name: range(2) for name in given.graph.groups}
    plan = given.plan(kept, "a method", Budget(nodes=4))
    assert (plan.method, plan.budget) == ("'a method'", {"nodes": 4})
    assert torch.equal(torch.randn(3, generator=given.generator()), torch.randn(3, generator=given.generator()))
