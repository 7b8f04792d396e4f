"""Tensors in nested containers are found, mapped and cut, and what is given is not changed."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from mipp.graph.trees import cut, map_tensors, plain_in, tensors_in


@dataclass
class Pair:
    first: Tensor
    name: str


A, B, C = (torch.full((4, 2), float(i)) for i in range(3))
TREE = {"pair": Pair(A, "a"), "more": [B, (C, 3)], "none": None}


def test_tensors_come_in_the_order_of_the_containers():
    assert [t is u for t, u in zip(tensors_in(TREE), (A, B, C), strict=True)] == [True] * 3
    loop: list = [A]
    loop.append(loop)
    assert len(tensors_in(loop)) == 1


def test_numbers_and_words_are_the_rest():
    assert plain_in(TREE["more"]) == (3,)
    assert plain_in({"a": (1, "b"), "c": None}) == (1, "b", None)


def test_mapping_keeps_the_containers_and_copies_them():
    mapped = map_tensors(TREE, lambda t: t + 1)
    assert isinstance(mapped["pair"], Pair)
    assert mapped["pair"].name == "a"
    assert [float(t[0, 0]) for t in tensors_in(mapped)] == [1.0, 2.0, 3.0]
    assert [float(t[0, 0]) for t in tensors_in(TREE)] == [0.0, 1.0, 2.0]
    assert mapped["more"] is not TREE["more"]


@pytest.mark.parametrize("chosen", [slice(1, 3), np.array([1, 2])])
def test_samples_are_cut_from_tensors_arrays_and_lists_of_that_length(chosen):
    tree = (A, np.arange(4), ["w", "x", "y", "z"], ["kept", "whole"])
    found = cut(tree, 4, chosen)
    assert found[0].shape == (2, 2)
    assert found[1].tolist() == [1, 2]
    assert found[2] == ["x", "y"]
    assert found[3] == ["kept", "whole"]
