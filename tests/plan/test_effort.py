"""Levels of effort: numbers of samples and rows for whatever says none itself."""

import pytest
import tasks
import torch
from torch import nn

import mipp
from mipp.errors import MippError
from mipp.methods import MIPP
from mipp.plan.effort import EFFORTS, effort_of

BUDGET = mipp.Budget(nodes=0.5)
FAST, DEFAULT, BEST = (EFFORTS[name] for name in ("fast", "default", "best"))


def prune(data, method=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return mipp.prune(model, data, BUDGET, method, progress=False, **options)


def batches(count: int) -> list[torch.Tensor]:
    return list(torch.randn(64 * count, 4, generator=torch.Generator().manual_seed(0)).split(64))


def state(result: mipp.Result) -> list[torch.Tensor]:
    return list(result.model.state_dict().values())


def same(one: mipp.Result, other: mipp.Result) -> bool:
    return one.plan.kept == other.plan.kept and all(map(torch.equal, state(one), state(other)))


@pytest.mark.parametrize("wrong", ["quick", "FAST", "", None, 1, ["fast"]])
def test_what_is_no_level_is_refused_with_the_levels_there_are(wrong):
    with pytest.raises(MippError, match=r"effort=.* is unknown; expected 'fast', 'default', 'best'"):
        prune(batches(1), effort=wrong)


def test_the_default_is_the_call_without_it_and_is_not_recorded():
    result = prune(batches(2), effort="default")
    assert same(result, prune(batches(2)))
    assert "effort" not in result.report.call
    assert effort_of("default") == tasks.task(tasks.chain()).effort == DEFAULT


def test_each_level_spends_at_least_what_the_one_below_it_does():
    for below, above in ((FAST, DEFAULT), (DEFAULT, BEST)):
        assert below.samples < above.samples
        assert all(
            below.steps_for(fall, in_chain=False) <= above.steps_for(fall, in_chain=False) for fall in (1, 3, 9, 27)
        )
        assert below.variations <= above.variations
        assert all(below.rows_for(inputs) <= above.rows_for(inputs) for inputs in (1, 100, 10_000))


def test_fast_reads_fewer_samples_unless_the_data_say_how_many():
    data, few = batches(8), FAST.samples // 64
    fast = prune(data, effort="fast")
    assert fast.plan.kept == prune(data[:few], effort="fast").plan.kept
    assert same(fast, prune(mipp.Calibration(data[:few], max_samples=None), effort="fast"))
    assert not same(fast, prune(mipp.Calibration(data, max_samples=None), effort="fast"))


def test_the_report_records_the_level_and_the_plan_what_it_stood_for():
    result = prune(batches(2), effort="fast")
    assert "effort='fast'" in result.report.call
    assert result.plan.method == prune(batches(2)).plan.method == repr(MIPP(steps=4, noise=10.0))


@pytest.mark.parametrize(("fall", "steps"), [(0.5, 1), (1, 1), (2, 1), (2.1, 2), (4, 2), (10, 4), (1e9, 4)])
def test_a_budget_takes_a_step_for_each_halving_and_four_in_chains(fall, steps):
    for level in EFFORTS.values():
        assert level.steps_for(fall, in_chain=False) == steps
        assert level.steps_for(fall, in_chain=True) == 4


def test_settings_of_the_refit_win():
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def small(**options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
        return mipp.prune(model, [images], BUDGET, progress=False, **options)

    said = {"compensate": mipp.Refit(positions=3, variations=1)}
    assert same(small(effort="fast", **said), small(**said))
    assert not same(small(effort="fast"), small())  # which varies images, as rows are scarce


def test_the_settings_of_a_method_stay_as_they_are():
    method = MIPP(steps=2, positions=7, noise=2.0)
    assert prune(batches(1), method, effort="best").plan.method == repr(method)


def test_another_level_is_another_run_to_a_checkpoint(tmp_path):
    prune(batches(1), effort="fast", checkpoint=tmp_path / "run")
    with pytest.raises(MippError, match="effort"):
        prune(batches(1), checkpoint=tmp_path / "run")
    assert prune(batches(1), effort="fast", checkpoint=tmp_path / "run").resumed


def test_a_frontier_is_pruned_at_a_level_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    (one,) = mipp.frontier(model, batches(8), [BUDGET], effort="fast", progress=False)
    assert same(one, mipp.prune(model, batches(8), BUDGET, effort="fast", progress=False))


@pytest.mark.parametrize(
    ("inputs", "samples", "positions"), [(9, 1024, 8), (576, 1024, 9), (576, 64, 144), (9, 4096, 8)]
)
def test_nodes_are_chosen_by_rows_enough_for_the_inputs(inputs, samples, positions):
    assert DEFAULT.positions_for(inputs, samples) == positions


@pytest.mark.parametrize(
    ("inputs", "positions", "samples", "stride"),
    [
        (144, 64, 1024, 4),
        (144, 64, 512, 2),
        (144, 64, 256, 1),
        (144, 1, 1024, 1),
        (4608, 64, 1024, 1),
        (9, 64, 4096, 4),
    ],
)
def test_few_samples_are_looked_at_where_they_give_rows_enough(inputs, positions, samples, stride):
    assert DEFAULT.stride_for(inputs, positions, samples) == stride
    rows = DEFAULT.positions_for(inputs, samples, stride) * min(samples, 1024) / stride
    assert rows >= max(8192, 16 * inputs)
