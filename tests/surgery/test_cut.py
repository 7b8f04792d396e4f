"""Weights are cut wherever they stand."""

import torch
from llamas import halves, ids, llama
from torch import nn

import mipp
from mipp.plan.plan import PruningPlan


def test_a_weight_held_as_a_buffer_is_cut_and_masked():
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 6)
            self.register_buffer("w", torch.randn(2, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.a(x).relu(), self.w)

    result = mipp.prune(Held(), [torch.randn(64, 3)], mipp.Budget(nodes=0.5), progress=False)
    assert result.model.w.shape == (2, 3)


def test_a_network_without_weights_is_inspected_and_cut():
    with torch.device("meta"):
        model = llama()
    found = mipp.inspect(model, {"input_ids": torch.zeros(2, 7, dtype=torch.long, device="meta")})
    assert {n: g.size for n, g in found.groups.items()} == {
        n: g.size for n, g in mipp.inspect(llama(), ids(2)).groups.items()
    }
    small = mipp.apply(PruningPlan.of(found.graph, model, halves(found.groups)), model)
    assert all(p.is_meta for p in small.parameters())
    assert small.model.layers[0].mlp.gate_proj.out_features == 24
