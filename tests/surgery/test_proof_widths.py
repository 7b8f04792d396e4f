"""Widths at which a model does not run are passed over, and the budget holds."""

import pytest
import torch
import torch.nn.functional as F
from networks import normal
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


class Squeezed(nn.Module):
    """A single map that is left is squeezed away."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.d, self.f = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        return self.f(F.relu(self.d(F.relu(self.c(x)))).mean((2, 3), keepdim=True).squeeze())


@pytest.mark.parametrize("nodes", range(3, 7))
@pytest.mark.parametrize("method", [mipp.methods.MIPP(), mipp.methods.L1(scope="global")])
def test_a_width_that_does_not_run_is_passed_over_and_the_budget_holds(nodes, method):
    result = mipp.prune(Squeezed(), [normal(16, 3, 6, 6)], mipp.Budget(nodes=nodes), method, progress=False)
    assert result.plan.widths["d"] >= 2
    assert sum(result.plan.widths.values()) <= nodes


def test_a_test_that_wants_such_a_width_gets_the_next():
    found = prune_by_test(Squeezed(), mipp.methods.MIPP(confidence=1 - 1e-12))
    assert found.plan.widths["d"] >= 2


def prune_by_test(model: nn.Module, method: mipp.methods.MIPP) -> mipp.Result:
    return mipp.prune(model, [normal(16, 3, 6, 6)], method=method, progress=False)


def test_such_a_width_is_refused_by_name_where_it_was_asked_for():
    with pytest.raises(mipp.InfeasibleBudgetError, match=r"1 nodes of group 'd'.*Expected another width: 2"):
        mipp.prune(Squeezed(), [normal(16, 3, 6, 6)], mipp.Budget(widths={"d": 1}), progress=False)
