"""Law 5: moments agree to 1e-12 for every batching, order and merge tree. And they are those of what a layer reads."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mipp.statistics.moments import BlockMoments, Moments, Variances

FEATURES, SAMPLES = 4, 40


def data(mean: float = 0.0, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(FEATURES, FEATURES, generator=g, dtype=torch.float64)
    return mean + spread * torch.randn(SAMPLES, FEATURES, generator=g, dtype=torch.float64) @ mix


def reference(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance by two passes in extended precision."""
    values = x.numpy().astype(np.longdouble)
    mean = values.mean(0)
    centred = values - mean
    return mean, centred.T @ centred / len(values)


def assert_agrees(moments: Moments, x: torch.Tensor, rtol: float = 1e-12) -> None:
    mean, covariance = reference(x)
    deviation = np.sqrt(np.diagonal(covariance))
    assert moments.count == len(x)
    found = moments.covariance.numpy()
    assert (abs(found - covariance) <= rtol * np.outer(deviation, deviation)).all()
    assert (abs(moments.mean.numpy() - mean) <= rtol * (abs(mean) + deviation)).all()
    raw = covariance + np.outer(mean, mean)
    size = np.sqrt(np.diagonal(raw))
    assert (abs(moments.raw.numpy() - raw) <= rtol * np.outer(size, size)).all()


def of(x: torch.Tensor) -> Moments:
    moments = Moments(FEATURES)
    moments.update(x)
    return moments


@settings(max_examples=40)
@given(
    order=st.permutations(range(SAMPLES)),
    cuts=st.sets(st.integers(0, SAMPLES), max_size=SAMPLES),
    choices=st.lists(st.integers(0, 10**6), min_size=SAMPLES + 2, max_size=SAMPLES + 2),
    spread=st.sampled_from([1e-6, 1.0, 1e6]),
    as_updates=st.booleans(),
)
def test_every_batching_order_and_merge_tree_agrees(order, cuts, choices, spread, as_updates):
    x = data(spread=spread)
    edges = [0, *sorted(cuts), SAMPLES]
    pieces = [x[order][a:b] for a, b in itertools.pairwise(edges)]  # some of them empty
    if as_updates:
        whole = Moments(FEATURES)
        for piece in pieces:
            whole.update(piece)
        assert_agrees(whole, x)
        return
    forest = [of(piece) for piece in pieces]
    for choice in choices:  # merges a random pair until one tree is left
        if len(forest) == 1:
            break
        right = forest.pop(choice % len(forest))
        forest[choice % len(forest)].merge(right)
    assert len(forest) == 1
    assert_agrees(forest[0], x)


@pytest.mark.parametrize("mean", [1e3, 1e5, -1e7])
@pytest.mark.parametrize("size", [1, 7, SAMPLES])
def test_large_means_cost_no_more_digits_than_the_mean_itself(mean, size):
    """The error grows with mean / deviation, as it must where the mean is rounded, not with its square."""
    x = data(mean)
    moments = Moments(FEATURES)
    for start in range(0, SAMPLES, size):
        moments.update(x[start : start + size])
    assert_agrees(moments, x, rtol=max(1e-12, 1e-15 * abs(mean)))


def test_merging_leaves_the_other_as_it_was():
    x = data()
    first, second = of(x[:10]), of(x[10:])
    second_mean, second_scatter = second.mean.clone(), second.scatter.clone()
    first.merge(second)
    first.update(x[:3])
    assert torch.equal(second.mean, second_mean)
    assert torch.equal(second.scatter, second_scatter)
    assert second.count == SAMPLES - 10


def test_merging_into_nothing_copies():
    x = data()
    whole, empty = of(x), Moments(FEATURES)
    empty.merge(whole)
    empty.update(x)
    assert_agrees(whole, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_rows_and_columns_change_nothing(dtype):
    """More features and rows than are worked on at once, neither a multiple of a block."""
    x = (3 + torch.randn(5001, 250)).to(dtype)
    moments = Moments(250)
    moments.update(x)
    assert_agrees(moments, x)
    assert torch.equal(moments.scatter, moments.scatter.mT)


def test_single_precision_samples_are_accumulated_in_double():
    x = data(100.0).float()
    moments = Moments(FEATURES)
    for row in x:
        moments.update(row[None])
    assert moments.covariance.dtype == torch.float64
    assert_agrees(moments, x.double())


def test_update_does_not_change_the_samples():
    x = data()
    before = x.clone()
    of(x)
    assert torch.equal(x, before)


def test_nothing_seen_is_zero_not_nan():
    empty = Moments(FEATURES)
    empty.update(torch.empty(0, FEATURES))
    assert empty.count == 0
    assert torch.equal(empty.covariance, torch.zeros(FEATURES, FEATURES, dtype=torch.float64))


@settings(max_examples=20)
@given(cuts=st.sets(st.integers(1, SAMPLES - 1)), mean=st.sampled_from([0.0, 50.0]))
def test_variances_are_the_diagonal(cuts, mean):
    x = data(mean)
    edges = [0, *sorted(cuts), SAMPLES]
    variances = Variances()
    for a, b in itertools.pairwise(edges):
        variances.update(x[a:b])
    torch.testing.assert_close(variances.variance, x.var(0, correction=0), rtol=1e-12, atol=0)


@settings(max_examples=20)
@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    cuts=st.sets(st.integers(0, SAMPLES), max_size=5),
    kind=st.sampled_from([torch.float64, torch.float32]),
    scale=st.sampled_from([1.0, 1e-12, 1e25]),
    seed=st.integers(0, 99),
)
def test_moments_of_blocks_are_parts_of_those_of_all(widths, cuts, kind, scale, seed):
    generator, size = torch.Generator().manual_seed(seed), sum(widths)
    samples = (scale * (3 + torch.randn(SAMPLES, size, generator=generator, dtype=torch.float64))).to(kind)
    blocks = list(torch.randperm(size, generator=generator).split(widths))
    whole, found = Moments(size, products=torch.float32), BlockMoments(blocks, products=torch.float32)
    for low, high in itertools.pairwise([0, *sorted(cuts), SAMPLES]):
        whole.update(samples[low:high])
        found.update(samples[low:high])
    close = {"rtol": 1e-4 if kind == torch.float32 else 1e-12, "atol": 0}
    assert (found.count, found.widened) == (SAMPLES, whole.widened)
    torch.testing.assert_close(found.mean, whole.mean, **close)
    torch.testing.assert_close(found.variance, whole.variance, **close)
    seen = 0
    for second, theirs in ((found.covariances, whole.covariance), (found.raw, whole.raw)):
        for own, values in second:
            seen += len(own)
            expected = theirs[own[:, :, None], own[:, None]]
            torch.testing.assert_close(values, expected, rtol=close["rtol"], atol=close["rtol"] * scale**2)
    assert seen == 2 * len(widths)
    for block in blocks:
        expected = whole.covariance[block[:, None], block]
        torch.testing.assert_close(found.of(block[None])[0], expected, rtol=1e-3, atol=1e-4 * scale**2)


@pytest.mark.parametrize(
    "make", [lambda: Moments(5), lambda: BlockMoments([torch.tensor([0, 3]), torch.arange(1, 3), torch.tensor([4])])]
)
def test_of_sharded_samples_all_processes_get_the_moments_of_all_and_keep_their_own(make, monkeypatch):
    shards = torch.randn(23, 5, dtype=torch.float64).split([9, 14])
    whole, own = make(), [make() for _ in shards]
    for samples, moments in zip(shards, own, strict=True):
        moments.update(samples + 100)
        whole.update(samples + 100)
    given, everybody = threading.local(), threading.Barrier(len(shards))
    board: list[list[torch.Tensor]] = [[] for _ in shards]

    def sum_shards(tensor):
        board[given.rank].append(tensor)
        everybody.wait()
        return sum(sent[len(board[given.rank]) - 1] for sent in board)

    def pool(rank):
        given.rank = rank
        return own[rank].pool()

    monkeypatch.setattr("mipp.statistics.moments.is_sharded", lambda: True)
    monkeypatch.setattr("mipp.statistics.moments.sum_shards", sum_shards)
    with ThreadPoolExecutor(len(shards)) as processes:
        pooled = list(processes.map(pool, range(len(shards))))
    for found in pooled:
        assert found.count == 23
        torch.testing.assert_close(found.mean, whole.mean)
        torch.testing.assert_close(found.raw, whole.raw)
    assert [moments.count for moments in own] == [9, 14]
