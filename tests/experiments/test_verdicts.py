"""The rule that turns paired runs into a word, on made-up data whose answer is known."""

import math
import random
from itertools import product

import pytest
from experiments.mipp_2024.figures.verdicts import compare, compare_counts, mean_interval, median_interval
from scipy import stats

pytest.importorskip("matplotlib")


def alone(values):
    return [[value] for value in values]


@pytest.mark.parametrize(
    ("gap", "word"), [(1.0, "better"), (-1.0, "worse"), (0.0, "no difference shown"), (0.05, "no difference shown")]
)
def test_a_gap_is_told_where_it_is_larger_than_the_noise(gap, word):
    noise = (-0.1, 0.0, 0.1, 0.05, -0.05)
    theirs = [90.0, 92.0, 95.0, 91.0, 94.0]  # seeds differ by much more than methods
    assert compare(alone([a + gap + e for a, e in zip(theirs, noise, strict=True)]), alone(theirs)).word == word


def test_the_interval_of_the_mean_is_that_of_the_paired_t_test():
    ours, theirs = [98.1, 97.9, 98.4, 98.0], [97.0, 97.6, 97.9, 97.1]
    found = compare(alone(ours), alone(theirs))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_cases_of_a_seed_are_one_observation():
    """Sparsities of one seed share their dense network: they are averaged, not counted as seeds."""
    one = compare([[90.0, 80.0], [92.0, 84.0]], [[89.0, 79.0], [91.0, 81.0]])
    assert one.seeds == 2
    assert (one.low, one.high) == pytest.approx(mean_interval([1.0, 2.0]))


def test_one_seed_decides_nothing():
    one = compare([[99.0]], [[10.0]])
    assert one.word == "no difference shown"
    assert str(one) == "+89.00 (1 seed: no interval)"


def test_where_a_run_is_dead_the_median_counts_and_the_dead_are_told():
    ours, theirs = alone([97.0, 97.5, 11.35]), alone([97.2, 97.4, 97.0])
    one = compare(ours, theirs, guessing=10.0)
    assert one.dead == (1, 0)
    assert one.middle == pytest.approx(-0.2)
    assert one.word == "no difference shown"  # three seeds can show nothing of a median
    assert "dead runs 1 against 0" in str(one)


def test_six_seeds_in_one_direction_are_enough_for_a_median():
    assert median_interval([1, 2, 3, 4, 5, 6]) == (1, 6)
    assert median_interval([1, 2, 3, 4, 5]) == (-math.inf, math.inf)
    assert compare(alone([50.0] * 6), alone([10.0] * 6), guessing=10.0).word == "better"


def test_the_interval_of_the_median_covers_it_as_often_as_it_says():
    """Exact: over all orders of signs, the interval of n values misses their median at most one time in twenty."""
    for n in (6, 8, 10):
        missed = 0
        for signs in product((-1, 1), repeat=n):
            low, high = median_interval([s * (k + 1) for k, s in enumerate(signs)])
            missed += low > 0 or high < 0
        assert missed / 2**n <= 0.05


def test_equal_methods_are_rarely_told_apart():
    rng = random.Random(0)
    told = 0
    for _ in range(400):
        ours, theirs = ([rng.gauss(90, 1) for _ in range(3)] for _ in range(2))
        told += compare(alone(ours), alone(theirs)).word != "no difference shown"
    assert told / 400 <= 0.08  # nominally 0.05


def test_counts_are_compared_on_pairs_that_differ():
    assert compare_counts([False] * 15, [True] * 4 + [False] * 11) == "no difference shown"  # 4 of 4: p = 0.125
    assert compare_counts([False] * 15, [True] * 6 + [False] * 9) == "better"
    assert compare_counts([True] * 6, [False] * 6) == "worse"
    assert compare_counts([True, False], [True, False]) == "no difference shown"


def test_runs_of_other_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        compare(alone([1.0, 2.0]), alone([1.0]))
