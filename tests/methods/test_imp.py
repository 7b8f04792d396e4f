"""IMP rewinds bit by bit and trains without what it removed."""

import itertools

import torch
from tasks import chain, trained_task

import mipp
from mipp.methods import (
    IMP,
)


def test_imp_rewinds_bit_by_bit_to_the_weights_early_in_training():
    given, training = trained_task(chain())
    _, state = IMP(rewind=0.2).plan(given, mipp.Budget(nodes=0.5))
    early, late = training.seen[1], training.seen[-1]
    assert all(torch.equal(state[name], early[name]) for name in state)
    assert any(not torch.equal(state[name], given.model.state_dict()[name]) for name in state)
    assert any(not torch.equal(late[name], early[name]) for name in state)


def test_imp_trains_without_what_it_removed_and_removes_more_each_round():
    given, training = trained_task(chain())
    plan, _ = IMP(rewind=0.2, per_round=0.3).plan(given, mipp.Budget(nodes=0.4))
    rounds = [training.seen[i] for i in range(9, len(training.seen), 8)]
    alive = [int((s["0.weight"].abs().sum(1) > 0).sum() + (s["2.weight"].abs().sum(1) > 0).sum()) for s in rounds]
    assert alive[0] == 11
    assert len(alive) == 3
    assert all(a > b for a, b in itertools.pairwise([*alive, sum(plan.widths.values())]))


def test_prune_returns_the_rewound_weights_cut():
    given, training = trained_task(chain())
    data = [(b.call.args[0], b.labels) for b in given.batches]
    result = mipp.prune(
        given.model, data, mipp.Budget(nodes=0.5), IMP(rewind=0.2), compensate=False, train=training, progress=False
    )
    kept = list(result.plan.kept["0"])
    assert torch.equal(result.model[0].weight, training.seen[1]["0.weight"][kept])
