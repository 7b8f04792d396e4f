"""Widths by trial: the search alone on distances that are known, and as part of MIPP."""

import pytest
import torch
from cases import named, quick  # noqa: F401

import mipp
from mipp.data.calibration import read
from mipp.methods import MIPP
from mipp.methods.mipp.trials import Distance, search
from mipp.plan.elimination import Elimination
from mipp.runtime.tensor_store import Memory

pytestmark = pytest.mark.usefixtures("quick")
CURVES = {name: Elimination(tuple(range(20)), tuple(float(k) ** 2 for k in range(21))) for name in "abcd"}
TOTAL = 40


def allocated(curves):
    """Forty of eighty nodes, one by one where it costs least."""
    widths = dict.fromkeys(curves, 20)
    while sum(widths.values()) > TOTAL:
        free = [name for name in widths if widths[name] > 1]
        step = {n: curves[n].loss[21 - widths[n]] - curves[n].loss[20 - widths[n]] for n in free}
        widths[min(step, key=step.get)] -= 1
    return widths


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def away(widths, best=(16, 12, 8, 4)):
    return float(sum((width - wish) ** 2 for width, wish in zip(widths.values(), best, strict=True)))


@pytest.mark.parametrize("seed", range(5))
def test_the_search_comes_nearer_within_the_budget(seed):
    found = search(CURVES, allocated, away, 60, generator(seed))
    assert away(found) < 0.3 * away(allocated(CURVES))
    assert sum(found.values()) <= TOTAL


def test_no_more_networks_are_tried_than_allowed_and_the_nearest_one_stays():
    seen = []
    found = search(CURVES, allocated, lambda widths: seen.append(dict(widths)) or away(widths), 12, generator())
    assert len(seen) <= 13
    assert seen[0] == allocated(CURVES)
    assert away(found) == min(map(away, seen))


def test_where_nothing_is_nearer_the_first_widths_stay():
    first = allocated(CURVES)
    assert search(CURVES, allocated, lambda widths: float(widths != first), 20, generator()) == first
    assert search({"a": CURVES["a"]}, lambda curves: {"a": 3}, pytest.fail, 20, generator()) == {"a": 3}


def planned(trials: int, budget: mipp.Budget, seed: int = 0) -> mipp.Result:
    case = named("residual")
    return mipp.prune(
        case.model(), mipp.Calibration(case.batches()), budget, MIPP(trials=trials), seed=seed, progress=False
    )


@pytest.mark.parametrize(
    "budget", [mipp.Budget(macs=0.5), mipp.Budget(nodes=0.6, widths={"a": 2}), mipp.Budget(params=0.6, round_to=2)]
)
def test_trials_keep_the_budget_and_come_no_further_from_the_dense_network(budget):
    case = named("residual")
    results = [planned(trials, budget) for trials in (0, 8)]
    for name, slack in results[1].report.slack.items():
        assert slack >= -1e-12, name
    graph = mipp.inspect(case.model(), case.batches()[0][0]).graph
    distance = Distance(case.model(), graph, read(mipp.Calibration(case.batches()), None), Memory())
    assert distance(results[1].plan) <= distance(results[0].plan)
    assert results[1].plan == planned(8, budget).plan
    assert all(len(results[1].plan.kept[name]) == width for name, width in budget.widths.items())


def test_one_batch_is_too_few():
    case = named("residual")
    with pytest.raises(mipp.CalibrationError, match="two calibration batches"):
        mipp.prune(case.model(), case.batches()[:1], mipp.Budget(macs=0.5), MIPP(trials=1), progress=False)
