"""Statistics under a memory limit are coarser, say so, and keep the budget."""

from collections.abc import Iterator

import pytest
import torch
from cases import assert_same, inspected, named, outputs
from torch import nn

import mipp
from mipp.statistics.layouts import LAYOUTS, features_together, kernel_basis, kernel_of


def streams(seed: int = 0) -> Iterator[torch.Tensor]:
    """Calibration batches that nobody holds."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(6))


def pruned(name: str = "cifar resnet", data=None, **options) -> mipp.Result:
    case = named(name)
    data = data or (streams() if name == "cifar resnet" else iter(case.batches(6)))
    return mipp.prune(case.model(), data, mipp.Budget(macs=0.6), progress=False, **options)


@pytest.mark.parametrize("name", ["cifar resnet", "conv flatten linear", "few groups", "concatenation", "residual"])
def test_a_tiny_limit_gives_coarser_statistics_that_say_so_and_the_budget_holds(name, quick):
    case = named(name)
    found = pruned(name, memory_limit="100 B")
    before, after = found.report.before.macs, found.report.after.macs
    assert after <= 0.6 * before
    assert any("node-wise" in note for note in found.report.notes)
    batch = case.batch(20)
    assert_same(
        outputs(mipp.apply(found.plan, case.model()), batch), outputs(mipp.mask(found.plan, case.model()), batch)
    )


def test_refitting_in_blocks_lowers_the_error_nearly_as_far(quick):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 160), nn.ReLU(), nn.Linear(160, 10)).double()
    data = torch.randn(1000, 20).double() @ torch.randn(20, 20).double()
    errors = {}
    for limit in (None, "60 kB"):
        result = mipp.prune(
            model, [data], mipp.Budget(nodes=140), mipp.methods.L1(), memory_limit=limit, progress=False
        )
        cut = mipp.apply(result.plan, model)
        errors[limit], errors["cut"] = (
            float((m(data) - model(data)).detach().square().mean()) for m in (result.model, cut)
        )
        assert any("blocks" in note and "2.weight" in note for note in result.report.notes) == (limit is not None)
    assert errors[None] < errors["60 kB"] < 0.5 * errors["cut"]


def test_a_layer_of_many_outputs_seen_in_few_rows_is_refitted_at_once_where_these_fit():
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(9, 200), nn.ReLU(), nn.Linear(200, 2000)).eval(), torch.randn(100, 9)
    for limit, said in (("30 MB", False), ("2 MB", True)):
        result = mipp.prune(
            model, [data], mipp.Budget(nodes=150), mipp.methods.L1(), memory_limit=limit, progress=False
        )
        assert any("blocks" in note for note in result.report.notes) == said


@pytest.mark.parametrize("name", ["cifar resnet", "conv flatten linear", "few groups", "linear chain", "concatenation"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_feature_of_a_node_is_in_one_part(name, layout):
    _, found = inspected(named(name))
    for site in found.graph.sites:
        kernel = kernel_of(found.graph, site)
        features = torch.cat(features_together(site, kernel, layout))
        assert torch.equal(features.sort().values, torch.arange(len(site.reads) * kernel))


def test_waves_at_a_quarter_turn_are_exactly_zero():
    """Else inputs at one position would give other frequencies numbers of 1e-17, which are summed in float64."""
    basis = kernel_basis((3, 5))
    assert float(basis[basis != 0].abs().min()) > 1e-3
    torch.testing.assert_close(basis.mT @ basis, torch.eye(15, dtype=torch.float64))
