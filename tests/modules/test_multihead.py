"""The twin of nn.MultiheadAttention computes what torch computes, with fewer heads too."""

import copy
import itertools

import pytest
import torch
from cases import Net, assert_same
from llamas import halves
from networks import prune_images, refused
from torch import nn

import mipp
from mipp.modules.multihead import Multihead, open_attention
from mipp.plan.plan import PruningPlan

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
        twin = copy.deepcopy(stock)
        open_attention(twin)
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


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("lost", ["heads", "hidden units", "both", "heads of the second layer"])
def test_a_cut_encoder_runs_on_padded_sequences_with_gradients_and_without(lost):
    """Without, torch hands its layers ragged sequences, and leaves zeros where they are padded."""
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    net = Net(
        lambda m, x: m.head(m.encoder(m.embed(x), src_key_padding_mask=x == 0)),
        embed=nn.Embedding(20, 16),
        encoder=nn.TransformerEncoder(layer, 2),
        head=nn.Linear(16, 3),
    )
    net, tokens = net.double().eval(), torch.randint(1, 20, (4, 6))
    tokens[0, 4:], tokens[1, 1:] = 0, 0
    found = mipp.inspect(net, tokens)
    chosen = {"heads": "attn", "hidden units": "linear1", "both": "layers", "heads of the second layer": "1.self_attn"}
    groups = {name: group for name, group in found.groups.items() if chosen[lost] in name}
    plan = PruningPlan.of(found.graph, net, halves(groups))
    small = mipp.apply(plan, net)
    trained = small(tokens).detach()
    with torch.no_grad():
        ragged, dense = small(tokens), net(tokens)
    read = tokens != 0
    assert_same([ragged[read]], [trained[read]])
    assert_same([ragged[~read]], [dense[~read]])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_asked_of_ragged_sequences_beyond_attention_among_themselves_is_not_passed_over():
    """Nobody gets an answer without the mask, the other keys or the weights that were asked for."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    open_attention(layer)
    first, other = (torch.nested.as_nested_tensor([torch.randn(n, 8) for n in (3, 5)]) for _ in range(2))
    assert layer(first, first, first, need_weights=False)[0].is_nested
    for given in ({"attn_mask": torch.zeros(5, 5)}, {"key_padding_mask": torch.zeros(2, 5)}, {"need_weights": True}):
        with pytest.raises(RuntimeError):
            layer(first, first, first, **{"need_weights": False, **given})
    with pytest.raises(RuntimeError):
        layer(first, other, other, need_weights=False)


def test_attention_that_loses_nothing_stays_torch_s_own():
    model = nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), nn.Linear(16, 3))
    found = mipp.inspect(model.eval(), torch.randn(2, 6, 5))
    small = mipp.apply(PruningPlan.of(found.graph, model, {"1.linear1": range(10)}), model)
    assert type(small[1].self_attn) is nn.MultiheadAttention


pytestmark = pytest.mark.usefixtures("quick")


def test_a_plan_of_an_attention_with_other_heads_is_refused():
    def attention(heads: int) -> nn.Module:
        return Net(
            lambda m, x: m.o(m.a(x, x, x)[0]), a=nn.MultiheadAttention(8, heads, batch_first=True), o=nn.Linear(8, 3)
        )

    plan = prune_images(attention(4), [torch.randn(64, 4, 8)], mipp.Budget(widths={"a": 2})).plan
    assert "'a' has 4 heads, but here it has 2" in refused(lambda: mipp.apply(plan, attention(2)))
    assert mipp.PruningPlan.from_dict(plan.to_dict()).heads == {"a": 4}
