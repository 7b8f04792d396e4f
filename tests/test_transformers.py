"""Transformers: heads, groups of heads, the twin of nn.MultiheadAttention, configurations, networks without weights."""

import copy
import itertools

import pytest
import torch
from cases import assert_same
from torch import nn

import mipp
from mipp.modules.multihead import Multihead, open_attention
from mipp.plan import PruningPlan

transformers = pytest.importorskip("transformers")

LLAMA = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def llama(**options) -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **options)).eval()


def ids(samples: int = 4) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(50, (samples, 7), generator=torch.Generator().manual_seed(1))}


def halves(groups) -> dict[str, list[int]]:
    return {name: list(range(0, group.size, 2)) for name, group in groups.items()}


MASKS = ("none", "boolean", "added", "per head")


@pytest.mark.parametrize(("mask", "padded", "crossed"), list(itertools.product(MASKS, (False, True), (False, True))))
def test_attention_that_takes_its_sizes_from_its_weights_computes_what_torch_computes(mask, padded, crossed):
    """Also without a batch dimension, with the batch second, without biases, with keys of another width."""
    for first, bias, width, needs, average, single in itertools.product(
        (True, False), (True, False), (None, 6), (True, False), (True, False), (True, False)
    ):
        if width and not crossed:
            continue
        stock = nn.MultiheadAttention(8, 2, bias=bias, batch_first=first, kdim=width, vdim=width).double().eval()
        twin = open_attention(copy.deepcopy(stock))
        query, key = torch.randn(3, 4, 8).double(), torch.randn(3, 5, width or 8).double()
        if single:
            query, key = query[0], key[0]
        elif not first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        key = key if crossed else query
        steps = 5 if crossed else 4
        added = {
            "none": None,
            "boolean": torch.rand(4, steps) > 0.7,
            "added": torch.randn(4, steps).double(),
            "per head": torch.randn(2 if single else 6, 4, steps).double(),
        }[mask]
        if mask == "boolean":
            added[:, 0] = False
        padding = torch.rand(3, steps) > 0.7 if padded else None
        if padded:
            padding[:, 0] = False
            padding = padding.double() * -3 if mask in ("added", "per head") else padding
            padding = padding[0] if single else padding
        given = {
            "need_weights": needs,
            "average_attn_weights": average,
            "attn_mask": added,
            "key_padding_mask": padding,
        }
        with torch.no_grad():
            found, expected = twin(query, key, key, **given), stock(query, key, key, **given)
        assert_same([t for t in found if t is not None], [t for t in expected if t is not None])


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_layer_with_fewer_heads_runs_in_torch_s_own_inference(norm_first):
    """The fused kernel would take the size of a head from the width of the layer."""
    model = nn.Sequential(
        nn.Linear(5, 16),
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first),
            2,
            enable_nested_tensor=False,
        ),
        nn.Linear(16, 3),
    )
    model = model.double().eval()
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    found = mipp.inspect(model, x)
    sizes = {name: group.size for name, group in found.groups.items()}
    assert sizes == {
        "0": 16,
        "1.layers.0.self_attn": 4,
        "1.layers.0.linear1": 24,
        "1.layers.1.self_attn": 4,
        "1.layers.1.linear1": 24,
    }
    plan = PruningPlan.of(found.graph, model, halves(found.groups))
    small = mipp.apply(plan, model)
    with torch.inference_mode():
        assert_same([small(x)], [mipp.mask(plan, model)(x)])
    assert small[1].layers[0].self_attn.num_heads == 2
    assert type(model[1].layers[0].self_attn) is nn.MultiheadAttention
    assert isinstance(small[1].layers[0].self_attn, Multihead)


def test_attention_that_loses_nothing_stays_torch_s_own():
    model = nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), nn.Linear(16, 3))
    found = mipp.inspect(model.eval(), torch.randn(2, 6, 5))
    small = mipp.apply(PruningPlan.of(found.graph, model, {"1.linear1": range(10)}), model)
    assert type(small[1].self_attn) is nn.MultiheadAttention


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


def test_a_uniform_budget_gives_a_model_that_the_stock_configuration_describes(tmp_path):
    result = mipp.prune(
        llama(), [ids(16)], mipp.Budget(params=0.75, uniform=True), exclude=["model.embed_tokens"], progress=False
    )
    widths = set(result.plan.widths.items())
    assert {w for name, w in widths if "mlp" in name} == {result.model.config.intermediate_size}
    assert not any("from_pretrained" in note for note in result.report.notes)
    result.model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_same([loaded(**ids()).logits], [result.model(**ids()).logits], 1e-5)


def test_widths_that_no_configuration_describes_are_told():
    result = mipp.prune(llama(), [ids(16)], mipp.Budget(widths={"model.layers.0.mlp.gate_proj": 20}), progress=False)
    assert any("No configuration of LlamaForCausalLM describes these widths" in note for note in result.report.notes)
    assert result.model.config.intermediate_size == 48


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


def test_generation_goes_on_with_a_cache_of_fewer_heads():
    model = llama()
    found = mipp.inspect(model, ids())
    small = mipp.apply(PruningPlan.of(found.graph, model, halves(found.groups)), model)
    cached = small.generate(**ids(2), max_new_tokens=5, do_sample=False, use_cache=True, pad_token_id=0)
    plain = small.generate(**ids(2), max_new_tokens=5, do_sample=False, use_cache=False, pad_token_id=0)
    assert torch.equal(cached, plain)


def test_flap_is_the_diagonal_special_case():
    """Nodes taken one by one, one noise for all targets and much of it: information is FLAP's score, up to a factor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 5)).double()
    x = torch.randn(200, 6, dtype=torch.float64)
    hidden, weight = model[:2](x), model[2].weight.detach()
    variances = hidden.var(0, correction=0).detach()
    parts = [torch.tensor([i]) for i in range(12)]
    moments = [(variances[i].reshape(1, 1), len(x)) for i in range(12)]
    floor = torch.full((5,), 1e5, dtype=torch.float64)
    (found,) = mipp.estimators.apart(weight, parts, moments, torch.arange(12)[:, None], floor, 1.0)
    flap = variances * weight.square().sum(0)
    torch.testing.assert_close(found.losses() * 2e5, flap, rtol=1e-4, atol=0)
    method = mipp.methods.all()["flap"]()
    kept = mipp.prune(model, [x], mipp.Budget(widths={"0": 5}), method, progress=False).plan.kept
    assert set(kept["0"]) == set(torch.argsort(found.losses())[-5:].tolist())
