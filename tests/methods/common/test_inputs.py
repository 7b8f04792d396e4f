"""Statistics of what layers read, where none reads and where they do not fit into memory."""

import pytest
import torch
from cases import named
from tasks import chain

import mipp
from mipp.methods import (
    CHIP,
    FLAP,
    OSSCAR,
    HRank,
    Interpolative,
    ThiNet,
    Wanda,
)


@pytest.mark.parametrize("method", [Wanda, FLAP, OSSCAR, Interpolative, ThiNet, HRank, CHIP, mipp.methods.MIPP])
def test_nodes_that_no_layer_reads_are_ranked_by_weight_and_the_report_says_so(method):
    model = named("stacked experts").model()
    batches = [named("stacked experts").batch(40)]
    found = mipp.prune(model, batches, mipp.Budget(widths={"up": 3, "up#2": 4}), method(), progress=False)
    read = model.down.detach().square().sum((0, 2))
    assert set(found.plan.kept["up#2"]) == set(read.topk(4).indices.tolist())
    assert any("its nodes are ranked by weight" in note for note in found.report.notes)


def test_a_test_removes_no_node_that_it_knows_nothing_of():
    model, batches = named("stacked experts").model(), [named("stacked experts").batch(40)]
    with torch.no_grad():
        model.down[:, 2] = 0  # nothing reads it
    found = mipp.prune(model, batches, method=mipp.methods.MIPP(confidence=0.99), progress=False)
    assert found.plan.kept == {"up": (0, 1, 2), "up#2": (0, 1, 3, 4, 5)}


@pytest.mark.parametrize("method", [OSSCAR, Interpolative])
def test_second_moments_that_do_not_fit_into_memory_are_refused(method):
    with pytest.raises(mipp.MippError, match=r"memory_limit leaves .* too little for 2.*larger"):
        mipp.prune(chain(), [torch.randn(40, 4).double()], mipp.Budget(nodes=0.5), method(), memory_limit=500)
