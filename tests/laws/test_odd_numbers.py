"""Constant, duplicate, huge, tiny, half and few: finite plans that make sense, and a note that says what was done."""

import pytest
import torch
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


def network(dtype=torch.float32):
    torch.manual_seed(0)
    layers = nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    return nn.Sequential(*layers).to(dtype).eval()


def batches(dtype=torch.float32, samples=64):
    return [torch.randn(samples, 6, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3)]


def pruned(model, data, method=None, **options):
    result = mipp.prune(model, data, mipp.Budget(nodes=0.5), method, progress=False, **options)
    assert all(torch.isfinite(tensor).all() for tensor in result.model.state_dict().values())
    return result


def said(result, words):
    return any(words in note for note in result.report.notes)


@torch.no_grad()
def scaled(by):
    """Computes the same, with hidden activations of another size."""
    model = network()
    for tensor in (model[0].weight, model[0].bias):
        tensor.mul_(by)
    model[2].weight.div_(by)
    return model


@pytest.mark.parametrize("by", [1e-30, 1e-18, 1e18, 1e30])
@pytest.mark.parametrize("method", ["mipp", "flap", "osscar", "interpolative"])
def test_the_size_of_activations_is_no_matter(by, method):
    """A factor between two layers that cancels changes neither the widths nor how well the network is kept."""
    by = 2.0 ** round(torch.tensor(by).log2().item())  # which rounds nothing
    made, data = mipp.methods.all()[method], batches()
    expected, found = pruned(network(), data, made()), pruned(scaled(by), data, made())
    if method == "mipp":
        assert found.plan.kept == expected.plan.kept
        assert said(found, "summed in float64")
        assert not said(expected, "summed in float64")
    errors = [(r.model(data[0]) - network()(data[0])).norm() for r in (expected, found)]
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("by", [1e18, 1e22])
def test_a_later_batch_of_huge_numbers_is_summed_as_the_first_would_be(by):
    first, *others = batches()
    assert said(pruned(network(), [first, *(x * by for x in others)]), "summed in float64")


@pytest.mark.parametrize("by", [1e-30, 1e-20, 1e20, 1e30])
def test_inputs_of_any_size_give_a_finite_network(by):
    data = [x * by for x in batches()]
    result = pruned(network(), data)
    expected = network()(data[0]).double()
    assert (result.model(data[0]) - expected).norm() < expected.norm()


@torch.no_grad()
@pytest.mark.parametrize("method", ["mipp", "flap", "osscar", "hrank", "l1"])
def test_constant_units_go_into_biases(method):
    model, data = network(), batches()
    model[0].weight[:8] = 0
    model[0].bias[:8] = 1
    result = pruned(model, data, mipp.methods.all()[method]())
    assert (result.model(data[0]) - model(data[0])).norm() < 0.3 * model(data[0]).norm()
    if method == "mipp":
        assert result.plan.kept["0"] == tuple(range(8, 16))
        assert said(result, "read by 2 is constant")


@torch.no_grad()
@pytest.mark.parametrize("what", ["weights", "inputs", "one sample", "the same sample"])
def test_a_network_in_which_nothing_varies_is_kept_exactly(what):
    model, data = network(), batches()
    if what == "weights":
        model[0].weight.zero_()
    data = {
        "inputs": [torch.zeros(64, 6)],
        "one sample": [data[0][:1]],
        "the same sample": [data[0][:1].repeat(64, 1)],
    }.get(what, data)
    result = pruned(model, data)
    torch.testing.assert_close(result.model(data[0]), model(data[0]), rtol=1e-5, atol=1e-6)
    assert said(result, "constant over the calibration data")


@torch.no_grad()
def test_of_units_that_compute_the_same_one_is_kept():
    model, data = network(), batches()
    model[0].weight[8:], model[0].bias[8:] = model[0].weight[:8].clone(), model[0].bias[:8].clone()
    result = mipp.prune(model, data, mipp.Budget(widths={"0": 8}), progress=False)
    assert {node % 8 for node in result.plan.kept["0"]} == set(range(8))
    torch.testing.assert_close(result.model(data[0]), model(data[0]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("samples", [64, 5])
def test_models_of_half_precision_say_what_they_were_computed_in(dtype, samples):
    result = pruned(network(dtype), batches(dtype, samples))
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert said(result, str(dtype).removeprefix("torch."))
    assert said(result, "rows an input") == (samples == 5)


class Root(nn.Module):
    """Not a number where a hidden unit is negative: in the second batch only."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.where(x[:, :1] > 50, -1.0, self.a(x).abs()).sqrt())


def test_what_is_no_number_is_named_by_layer_and_batch():
    data = batches()
    data[1][3, 0] = 100
    with pytest.raises(mipp.CalibrationError, match=r"'b' reads of group 'a' .* in calibration batch 1"):
        pruned(Root(), data)
    data[2][0, 0] = torch.inf
    with pytest.raises(mipp.CalibrationError, match="Calibration batch 2 holds NaN or infinite"):
        pruned(network(), data)
