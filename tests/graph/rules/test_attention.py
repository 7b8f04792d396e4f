"""Heads and groups of heads, and the cache that generation keeps of them."""

import torch
from llamas import halves, ids, llama

import mipp
from mipp.plan.plan import PruningPlan


def test_query_heads_go_with_their_head_of_keys():
    groups = mipp.inspect(llama(), ids()).groups
    attention = groups["model.layers.0.self_attn.q_proj"]
    positions = {s.tensor.split(".")[-2]: s.positions for s in attention.slices}
    assert attention.size == 2
    assert positions["q_proj"].tolist() == [list(range(16)), list(range(16, 32))]
    assert positions["k_proj"].tolist() == positions["v_proj"].tolist() == [list(range(8)), list(range(8, 16))]
    assert positions["o_proj"].tolist() == positions["q_proj"].tolist()
    assert groups["model.embed_tokens"].size == 32
    assert groups["model.layers.1.mlp.gate_proj"].size == 48


def test_generation_goes_on_with_a_cache_of_fewer_heads():
    model = llama()
    found = mipp.inspect(model, ids())
    small = mipp.apply(PruningPlan.of(found.graph, model, halves(found.groups)), model)
    cached = small.generate(**ids(2), max_new_tokens=5, do_sample=False, use_cache=True, pad_token_id=0)
    plain = small.generate(**ids(2), max_new_tokens=5, do_sample=False, use_cache=False, pad_token_id=0)
    assert torch.equal(cached, plain)
