"""Processes that prune together have to have the same model and options; one alone has nothing to compare."""

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import MippError
from mipp.methods import MIPP
from mipp.pipeline import ranks
from mipp.pipeline.options import Options


def check(model: nn.Module, seed: int) -> None:
    ranks.check_ranks(model, mipp.Calibration([torch.randn(2, 3)]), [mipp.Budget(nodes=1)], MIPP(), Options(seed=seed))


@pytest.mark.parametrize(("seeds", "told"), [((0, 0, 0), None), ((0, 0, 1), "rank 2 in the options .seed.")])
def test_what_differs_is_named_with_its_rank(seeds, told, monkeypatch):
    model, hashes = nn.Linear(3, 2), []
    monkeypatch.setattr(ranks, "is_sharded", lambda: True)
    monkeypatch.setattr(ranks, "gather", lambda own: hashes.append(own) or [own])
    for seed in seeds:
        check(model, seed)
    monkeypatch.setattr(ranks, "gather", lambda own: hashes)
    if told is None:
        check(model, 0)
    else:
        with pytest.raises(MippError, match=told):
            check(model, 0)
