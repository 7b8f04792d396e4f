"""The information that a group carries to the layers that read it."""

from dataclasses import replace

import pytest
import torch
from tasks import chain, task

from mipp.methods.mipp import carried
from mipp.methods.mipp.carried import by_moments, measured, part_in_target, target_shrank
from mipp.runtime.tensor_store import Memory
from mipp.statistics.observing import site_statistics


def test_a_group_carries_less_of_what_fewer_outputs_read():
    given = task(chain(), samples=200)
    group = given.graph.groups["0"]
    source = by_moments(given, positions=4, noise=0.1)
    whole, half = (source(group, kept).total() for kept in ({}, {"2": (0, 1)}))
    assert 0 < half < whole


@pytest.mark.parametrize(("kept", "expected"), [({}, False), ({"2": (0, 1)}, True), ({"0": (1,)}, False)])
def test_a_target_shrinks_where_what_the_readers_write_goes(kept, expected):
    given = task(chain())
    assert target_shrank(given, given.graph.groups["0"], kept) == expected


def test_what_is_kept_elsewhere_than_in_the_target_of_a_group_is_nothing_to_it():
    given = task(chain())
    kept = {name: tuple(range(1, group.size)) for name, group in given.graph.groups.items()}
    assert part_in_target(given, given.graph.groups["0"], kept) == {"2": kept["2"]}
    assert part_in_target(given, given.graph.groups["2"], kept) == {}


def test_one_pass_serves_all_groups():
    given = task(chain(), samples=50)
    source = by_moments(given, positions=4, noise=0.1)
    source(given.graph.groups["0"], {})
    object.__setattr__(given, "batches", None)  # whatever reads them again, fails
    assert all(source(group, {}).total() > 0 for group in given.graph.groups.values())


@pytest.mark.parametrize("kept", [{}, {"2": (0, 1)}])
def test_nodes_that_count_as_independent_tell_what_the_outputs_kept_read_of_each(kept):
    given = replace(task(chain(), samples=200), memory=Memory(100))
    group = given.graph.groups["0"]
    (site,) = given.graph.readers(group)
    (moments,), weight = (own := measured(given, 4).statistics[site.op]).inputs, own.weight.double()
    assert own.layout == "node-wise"
    weight = weight[list(kept["2"])] if kept else weight
    noise = 0.1 * weight.square() @ moments.variance
    expected = 0.5 * torch.log1p(moments.variance * (weight.square() / noise[:, None]).sum(0))
    torch.testing.assert_close(by_moments(given, 4, 0.1)(group, kept).losses(), expected, rtol=1e-9, atol=0)


def sampling_of(given, monkeypatch):
    """The sampling by which the nodes of a task are chosen."""
    found = []

    def observe(model, graph, batches, sampling, *_):
        found.append(sampling)
        return site_statistics(model, graph, batches, sampling)

    monkeypatch.setattr(carried, "site_statistics", observe)
    measured(given, positions=64)
    (sampling,) = found
    return sampling


@pytest.mark.parametrize(("others", "stride"), [([], 4), ([600], 4), ([5], 2), ([1], 1)])
def test_every_process_has_a_sample_that_is_looked_at(monkeypatch, others, stride):
    monkeypatch.setattr(carried, "gather", lambda own: [own, *others])
    assert sampling_of(task(chain(), samples=1024), monkeypatch).stride(9, 64) == stride


def test_all_samples_are_looked_at_where_a_batch_stays_whole(monkeypatch):
    given = task(chain(), samples=1024)
    given = replace(given, batches=[replace(batch, whole=True) for batch in given.batches])
    sampling = sampling_of(given, monkeypatch)
    assert sampling.stride(9, 64) == 1
