"""Plans are proven: what cannot be cut as it is masked stays, and what methods return is checked."""

from dataclasses import dataclass

import pytest
import torch
from networks import image_batches, image_network, prune_images

import mipp
from mipp.errors import MippError


@dataclass(frozen=True)
class Returns:
    """A method that keeps all and returns something besides, or something else."""

    state: object = None
    plain: object = None

    def plan(self, task, budget):
        plan = task.plan({name: range(group.size) for name, group in task.graph.groups.items()}, self, budget)
        return self.plain or (plan, self.state)


def test_a_method_may_return_weights_which_the_plan_is_cut_from():
    state = {name: torch.zeros_like(t) for name, t in image_network().state_dict().items()}
    found = prune_images(method=Returns(state), compensate=False).model
    assert not any(parameter.any() for parameter in found.parameters())


def test_weights_of_another_shape_are_refused_by_name():
    with pytest.raises(MippError, match=r"'0.bias' has shape None, expected \(8,\)"):
        prune_images(method=Returns({"0.weight": torch.zeros(1)}))


def test_what_is_no_plan_is_refused():
    with pytest.raises(MippError, match="returned a list; expected a plan"):
        prune_images(method=Returns(plain=[1]))


def test_a_plan_that_exceeds_the_budget_is_told():
    report = mipp.prune(
        image_network(), image_batches(1), mipp.Budget(nodes=0.5), Returns(), compensate=False, progress=False
    ).report
    assert any("more than" in note and "nodes" in note for note in report.notes)
