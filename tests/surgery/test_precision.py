"""The proof computes in float64 without a copy in float64, and finds cuts that are a little wrong."""

import pytest
import torch
from torch import nn

import mipp
import mipp.surgery.proof as proof
import mipp.surgery.trials as trials
from mipp.graph.call import Call
from mipp.plan.plan import PruningPlan
from mipp.surgery.precision import forward_in_double, forward_in_single
from mipp.surgery.proof import outputs


class Fixed(nn.Module):
    """A norm that asks for a type."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x).to(torch.float32)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return self.outer(x.to(self.outer.weight.dtype))


def test_a_pass_op_by_op_is_that_of_a_copy_in_float64():
    torch.manual_seed(0)
    model = Fixed().eval()
    x = torch.randn(2, 6)
    wide = Fixed().double().eval()
    wide.load_state_dict(model.state_dict())
    h = wide.inner(x.double())
    expected = wide.outer(h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = forward_in_double(model, Call((x,)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pass_of_16_bits_in_float32_is_that_of_a_copy_in_float32(dtype):
    torch.manual_seed(0)
    model, x = Fixed().to(dtype).eval(), torch.randn(2, 6, dtype=dtype)
    wide = Fixed().eval()
    wide.load_state_dict(model.state_dict())
    found = forward_in_single(model, Call((x,)))
    torch.testing.assert_close(found, wide(x.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wrong", [False, True])
def test_trials_of_16_bits_are_decided_in_float32(wrong, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).bfloat16().eval()
    call = Call((torch.randn(2, 6, dtype=torch.bfloat16),))
    graph = trials.verified_graph(model, call, {})
    plan = PruningPlan.of(graph, model, {name: range(4) for name in graph.groups})
    if wrong:
        cut = proof.apply

        def planted(*given):
            small = cut(*given)
            with torch.no_grad():
                small[2].bias[0] += 0.01
            return small

        monkeypatch.setattr(proof, "apply", planted)
    monkeypatch.setattr(proof, "forward_in_double", None)  # not asked for
    assert proof.agrees_at_once(plan, model, call) != wrong


class Wide(nn.Module):
    """4,096 hidden nodes that a norm with buffers and one over its inputs read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.batch, self.layer = nn.Linear(16, 4096), nn.BatchNorm1d(4096), nn.LayerNorm(4096)
        self.last = nn.Linear(4096, 8)
        nn.init.normal_(self.batch.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(nn.functional.gelu(self.batch(self.first(x)))))


def swap_one_row(model: Wide) -> None:
    with torch.no_grad():
        model.first.weight[1000] = model.first.weight[1001]


def leave_buffer(model: Wide) -> None:
    model.batch.running_mean = model.batch.running_mean.roll(1)


def count_as_before(model: Wide) -> None:
    """The mean and variance of the layer norm over 4,096 positions, of which one is zero."""
    norm, own = model.layer, model.layer.weight
    model.layer = nn.Module()
    model.layer.forward = lambda x: nn.functional.layer_norm(
        nn.functional.pad(x, (0, 1)), (4096,), nn.functional.pad(own, (0, 1)), nn.functional.pad(norm.bias, (0, 1))
    )[..., :-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [None, swap_one_row, leave_buffer, count_as_before])
def test_a_cut_that_is_a_little_wrong_is_found(wrong, dtype, monkeypatch):
    torch.manual_seed(1)
    model = Wide().to(dtype).eval()
    call = Call((torch.randn(2, 16, dtype=dtype),))
    graph = trials.verified_graph(model, call, {})
    (name,) = graph.groups
    plan = PruningPlan.of(graph, model, {name: range(4095)})
    cut = proof.apply

    def planted(*given):
        small = cut(*given)
        if wrong is not None:
            wrong(small)
        return small

    monkeypatch.setattr(proof, "apply", planted)
    assert proof.compare(plan, model, call) == (wrong is None, "float64")


def test_what_refuses_another_type_is_compared_in_a_copy():
    """Recurrent layers check the types of their inputs against those of their weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True)).eval()
    call = Call((torch.randn(2, 3, 4),))
    graph = trials.verified_graph(model, call, {})
    kept = {name: range(1, group.size) for name, group in graph.groups.items()}
    assert proof.compare(PruningPlan.of(graph, model, kept), model, call) == (True, "float64")
    assert outputs(model, call)[0].dtype == torch.float64


class Refusing(nn.Module):
    """Refuses float64."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            raise TypeError("float64 is not served here")
        return self.outer(torch.relu(self.inner(x)))


def test_the_report_says_where_the_proof_is_not_in_float64():
    torch.manual_seed(0)
    data = [torch.randn(64, 6)]
    for model, said in ((Refusing(), True), (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), False)):
        result = mipp.prune(model, data, mipp.Budget(nodes=4), mipp.methods.L1(), compensate=False, progress=False)
        assert any("own precision" in note for note in result.report.notes) == said
