"""Folds of rows: which samples are held out together, and the rows of each."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

FOLDS = 2

Choose = Callable[[Tensor, int], Tensor]
"""The rows of one fold along a dimension, as runs of rows: two dimensions take its place."""


def folds_of(rows: int, samples: int, first: int, folds: int = FOLDS) -> Tensor:
    """The fold of every row of a batch: by the number of its sample, so that it does not depend on the batches.

    Args:
        rows: Rows of the batch; those of one sample follow each other.
        samples: Samples of the batch.
        first: Number of its first sample.
        folds: Number of folds.
    """
    return (first + torch.arange(rows) * samples // max(rows, 1)) % folds


def by_fold(folds: Tensor, device: torch.device) -> list[Choose]:
    """Functions that choose the rows of each of `FOLDS` folds: a view, no copy, where runs of equal length take turns.

    Args:
        folds: The fold of every row, shape [rows].
        device: Where the rows are.
    """
    others = torch.nonzero(folds != folds[:1])[:, 0]
    run = int(others[0]) if len(others) else 0
    if run and len(folds) % (FOLDS * run) == 0:
        first = int(folds[0])
        if torch.equal(folds, (first + torch.arange(len(folds)) // run) % FOLDS):
            return [partial(_in_turn, run=run, turn=(number - first) % FOLDS) for number in range(FOLDS)]
    return [partial(_at, places=torch.nonzero(folds == number)[:, 0].to(device)) for number in range(FOLDS)]


def _in_turn(rows: Tensor, dim: int, run: int, turn: int) -> Tensor:
    view: Tensor = rows.unflatten(dim, (-1, FOLDS, run)).select(dim + 1, turn)
    return view


def _at(rows: Tensor, dim: int, places: Tensor) -> Tensor:
    return rows.index_select(dim, places).unsqueeze(dim)
