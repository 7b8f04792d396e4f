"""The learning copy: in types that train, with emptied groups silent."""

import pytest
import torch
from torch import nn

import mipp
from mipp.refit import learner as module
from mipp.refit.learner import audible_factors, learning_copy, multiplies_bfloat16, silence


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_bfloat16_is_multiplied_where_that_is_faster(monkeypatch, slow):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(module.timeit, "repeat", lambda product, **_: [3.0, 2.0 if product().dtype == slow else 1.0])
    module._bfloat16_is_faster.cache_clear()
    assert multiplies_bfloat16(torch.device("cpu")) == (slow == torch.float32)
    module._bfloat16_is_faster.cache_clear()


def test_without_instructions_for_bfloat16_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(module, "_bfloat16_is_faster", lambda: pytest.fail("measured"))
    assert not multiplies_bfloat16(torch.device("cpu"))


def test_halves_become_floats_in_a_copy():
    model = nn.Linear(2, 2).half()
    learner = learning_copy(model, images=False)
    assert {p.dtype for p in learner.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not learner.training


def test_weights_that_read_an_emptied_group_stay_silent():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = mipp.inspect(model, torch.randn(2, 3)).graph
    plan = mipp.PruningPlan.of(graph, model, {"0": (), "2": (0, 1)})
    small = mipp.apply(plan, model)
    factors = audible_factors(plan, model)
    assert factors.keys() == {"2.weight"}
    nn.init.ones_(small[2].weight)
    with torch.no_grad():
        silence(small, factors)
    assert not small[2].weight.any()
