"""A linear layer by oneDNN writes what it writes otherwise, and it is left to torch where that is not sure."""

import pytest
import torch
import torch.nn.functional as F
from networks import normal

from mipp.runtime import onednn

WEIGHT, BIAS = normal(192, 160, seed=1), normal(192, seed=2)
INPUTS = {
    "rows": normal(100, 160),
    "sequences": normal(4, 25, 160),
    "every other row": normal(200, 160)[::2],
    "turned": normal(160, 100).mT,
    "one row for all": normal(1, 160).expand(100, 160),
}


def linear(*args):
    op, given = onednn.faster(torch.ops.aten.linear.default, args)
    return op(*given)


@pytest.fixture
def by_onednn(monkeypatch):
    """True for each call that oneDNN takes, in their order."""
    found, pays = [], onednn.pays
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    monkeypatch.setattr(onednn, "pays", lambda *given: found.append(pays(*given)) or found[-1])
    return found


@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("name", INPUTS)
def test_it_differs_by_rounding_alone(name, bias, by_onednn):
    found = linear(INPUTS[name], WEIGHT, bias)
    expected = F.linear(INPUTS[name].double(), WEIGHT.double(), None if bias is None else bias.double())
    assert by_onednn == [onednn._IS_THERE]  # which it is on most machines
    assert found.shape == expected.shape
    assert found.is_contiguous()
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_gradients_other_types_and_small_layers_are_left_to_torch(by_onednn):
    weight = WEIGHT.clone().requires_grad_()
    linear(INPUTS["rows"], weight).sum().backward()
    assert torch.allclose(weight.grad, INPUTS["rows"].sum(0).expand(192, 160), rtol=1e-4, atol=1e-4)
    assert linear(INPUTS["rows"].double(), WEIGHT.double()).dtype == torch.float64
    assert torch.equal(linear(INPUTS["rows"][:2], WEIGHT), F.linear(INPUTS["rows"][:2], WEIGHT))
    assert by_onednn == [False, False, False]


@pytest.mark.parametrize(("own", "faster"), [(0.5, True), (0.9, False), (1.1, False)])
def test_it_is_taken_where_it_is_clearly_faster_than_the_blas(own, faster, monkeypatch):
    times = {onednn.linear: own, torch.mm: 1.0}
    monkeypatch.setattr(onednn.timeit, "repeat", lambda call, **_: [3.0, times[call.func]])
    onednn.is_faster.cache_clear()
    assert onednn.is_faster() == faster
    onednn.is_faster.cache_clear()


@pytest.mark.skipif(not onednn._IS_THERE, reason="needs oneDNN")
def test_measuring_it_leaves_autocast_alone():
    onednn.is_faster.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(onednn.is_faster(), bool)
        assert torch.is_autocast_enabled("cpu")


def test_weights_with_gaps_for_which_it_has_no_kernels_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    for gaps in (normal(192, 320)[:, ::2], normal(192, 320)[:, :160], normal(320, 192).mT[:, ::2]):
        assert torch.equal(linear(INPUTS["rows"], gaps), F.linear(INPUTS["rows"], gaps))


def test_it_is_left_to_torch_where_products_may_be_taken_in_fewer_digits(by_onednn):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        linear(INPUTS["rows"], WEIGHT)
    finally:
        torch.set_float32_matmul_precision(before)
    assert by_onednn == [False]
