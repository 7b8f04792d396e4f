"""One trace stands for all batches, whatever their size, or the model is refused."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmarks.zoo.checks import cut_equals_masked, random_plan
from cases import Case, Net, inspected, named
from networks import halve, linear_layers, normal
from torch import nn

import mipp
from mipp.data.calibration import as_call
from mipp.graph.call import Call
from mipp.graph.program import execute
from mipp.graph.trace import trace
from mipp.surgery.masked import MaskedForward


def test_inspect_reads_every_form_of_input():
    for name in ("linear chain", "several inputs", "dict input", "tied weights"):
        case = named(name)
        assert mipp.inspect(case.model(), case.batch(2)).groups
    case = named("several inputs")
    assert mipp.inspect(case.model(), list(case.batch(2))).groups


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize(
    "name", ["residual", "conv flatten linear", "channel shuffle", "class token", "linear on sequences"]
)
def test_the_groups_do_not_depend_on_the_batch_size(name, samples):
    case = named(name)
    expected = inspected(case)[1]
    found = mipp.inspect(case.model(), case.batch(samples))
    assert {n: g.size for n, g in found.groups.items()} == {n: g.size for n, g in expected.groups.items()}
    assert found.macs == expected.macs


def test_an_axis_as_long_as_the_batch_is_not_taken_for_it():
    """Five tokens, five features, five samples."""

    def forward(m, x):
        return m.b(F.relu(m.a(x.transpose(1, 2)).transpose(1, 2)))

    case = Case(
        "square", lambda: Net(forward, a=nn.Linear(5, 5), b=nn.Linear(5, 5)), lambda n, g: torch.randn(n, 5, 5).double()
    )
    found = mipp.inspect(case.model(), case.batch(5))
    assert not found.groups  # a makes tokens, b reads features


pytestmark = pytest.mark.usefixtures("quick")


def through_numpy(m, x):
    return m.b(F.relu(m.a(x))) * torch.from_numpy(x.detach().numpy().std(1, keepdims=True))


def through_a_list(m, x):
    return m.b(F.relu(m.a(x))) * torch.tensor(x.mean(1, keepdim=True).tolist())


def through_a_number(m, x):
    return m.b(F.relu(m.a(x))) * float(x.detach().numpy().std())


def through_an_array(m, x):
    return m.b(F.relu(m.a(x))) * float(np.asarray(x).std())


def past_torch(m, x):
    return m.b(F.relu(m.a(x))) * torch.from_numpy(np.from_dlpack(x).std(1, keepdims=True))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (past_torch, "makes tensors from values outside of torch"),
        (through_numpy, "takes numbers out of a tensor"),
        (through_a_list, "takes numbers out of a tensor"),
        (through_a_number, "takes numbers out of a tensor"),
        (through_an_array, "takes numbers out of a tensor"),
    ],
)
def test_what_leaves_torch_in_the_code_is_not_replayed_on_other_batches(function, reason):
    model = linear_layers(function, 6, 32, 3)
    with pytest.warns(UserWarning, match=f"Nothing was refitted: the code .*{reason}"):
        result = halve(model, [normal(64, 6, seed=n) for n in range(3)])
    assert str(result.report).startswith("Warning: Nothing was refitted: the code")
    assert any("Nothing was refitted: the code" in note and reason in note for note in result.report.notes)
    cut = mipp.apply(result.plan, model)
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), cut.parameters(), strict=True))


def test_a_constant_of_the_code_is_no_obstacle():
    model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))) * torch.from_numpy(np.float32([1, 2, 3])), 6, 32, 3)
    assert not any("Nothing was refitted" in note for note in halve(model, [normal(64, 6)]).report.notes)


def test_a_lazy_layer_is_refused_by_name():
    with pytest.raises(mipp.UnsupportedModelError, match=r"'0\.weight' has no shape yet"):
        halve(nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3)), [normal(5, 6)])


class Switched(nn.Module):
    """A norm for each kind of image."""

    def __init__(self, choose) -> None:
        super().__init__()
        self.choose, self.a, self.b = choose, nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])

    def forward(self, x):
        return self.b(F.relu(self.norms[self.choose(self, x)](self.a(x))).mean((2, 3)))


def test_norms_that_did_not_run_keep_the_nodes_they_may_share():
    found = mipp.inspect(Switched(lambda m, x: int(x.mean() < 0)), normal(4, 3, 6, 6).abs())
    assert "a" not in found.groups
    assert any(line.name == "norms.1" and line.reason == "did not run" for line in found.frozen)


def test_norms_that_run_in_training_are_cut_with_the_nodes_they_share():
    x = normal(8, 3, 6, 6)
    small = mipp.prune(Switched(lambda m, x: int(m.training)), [x], mipp.Budget(nodes=0.5), progress=False).model
    kept = small.a.out_channels
    assert kept < 8
    assert all(norm.num_features == len(norm.running_mean) == kept for norm in small.norms)
    assert small.train()(x).shape == small.eval()(x).shape == (8, 4)


def test_an_error_names_the_inputs_given_by_name():
    model = Net(lambda m, input_ids: m.out(m.embed(input_ids)), embed=nn.Embedding(7, 4), out=nn.Linear(5, 2))
    with pytest.raises(mipp.UnsupportedModelError, match=r"inputs of shape input_ids \(3, 6\)"):
        mipp.inspect(model, {"input_ids": torch.zeros(3, 6, dtype=torch.long)})


def test_a_masked_model_names_the_inputs_given_by_name():
    masked = MaskedForward(named("dict input").model(), {})
    with pytest.raises(mipp.UnsupportedModelError, match=r"left \(2, 3\), right \(2, 3\)"):
        masked(left=torch.zeros(2, 3), right=torch.zeros(2, 3))


def test_a_mistake_of_the_model_is_not_reported_as_ours():
    model = linear_layers(lambda m, x: m.b(m.a(x) @ torch.zeros(5, 5)), 6, 32, 3)
    with pytest.raises(mipp.UnsupportedModelError, match="raised RuntimeError"):
        halve(model, [normal(32, 6)])


def test_an_assertion_of_the_model_by_torch_is_not_reported_as_ours():
    """As of sizes that a model refuses, by the form of assertions that can be exported."""

    def forward(m, x):
        torch._assert(x.shape[1] % 4 == 0, "expected multiples of 4")
        return m.b(m.a(x))

    with pytest.raises(mipp.UnsupportedModelError, match="raised AssertionError: expected multiples of 4"):
        mipp.inspect(linear_layers(forward, 6, 32, 3), normal(32, 6))


def test_a_pass_that_calls_exit_is_refused():
    with pytest.raises(mipp.UnsupportedModelError, match="raised SystemExit"):
        halve(linear_layers(lambda m, x: sys.exit(0), 6, 32, 3), [normal(32, 6)])


def halves(make):
    def forward(m, x):
        a, b, n = m.a(x), m.b(x), x.shape[1]
        y = make(a, 2 * n)
        y[:, :n].copy_(a)
        y[:, n:] = b
        return m.c(F.relu(y))

    return forward


def several(m, x):
    a, b = m.a(x), m.b(x)
    a[1:, 1:3] = b[1:, 1:3]
    a[:, 0:1].mul_(2)
    a[:, :2] += b[:, :2]
    a[:, ::2] = 0.5
    return m.c(F.relu(a))


def channels(m, x):
    a, b = m.a(x), m.b(x)
    y = a.new_empty(*a.shape[:2], 2 * a.shape[2])
    y[..., : a.shape[2]], y[..., a.shape[2] :] = a, b
    return m.c(F.relu(y[..., : a.shape[2]] * y[..., a.shape[2] :]))


def joined(m, x):
    a, b = m.a(x), m.b(x)[..., ::2].contiguous()
    y = a.new_zeros(*a.shape[:2], a.shape[2] + b.shape[2])
    y[..., : a.shape[2]], y[..., a.shape[2] :] = a, b
    return m.c(F.relu(y[..., : a.shape[2]])) + y[..., a.shape[2] :].sum(-1, keepdim=True)


def fixed_channels(m, x):
    a, b = m.a(x), m.b(x)
    y = torch.zeros(*a.shape[:2], 12, dtype=a.dtype)
    y[..., :6], y[..., 6:] = a, b
    return m.c(F.relu(y[..., :6] * y[..., 6:]))


def step_by_step(m, x):
    a, b = m.a(x), m.b(x)
    y = torch.zeros_like(a)
    for step in range(x.shape[1]):
        y[:, step] = a[:, step] + (F.relu(y[:, step - 1]) if step else b[:, 0])
    y[..., -1, :].mul_(2)
    return m.c(F.relu(y))


def one_channel(m, x):
    a, b = m.a(x), m.b(x)
    a[..., 1] = b.mean(-1)
    return m.c(F.relu(a))


def stale(m, x):
    a, b = m.a(x), m.b(x)
    part = a[:, 1:3]
    a[:, 2:] = b[:, 2:]
    return m.c(F.relu(a)) + m.c(part).mean(1, keepdim=True)


# the name of a way to write into slices: the code, whether running the ops again does the same, and nodes of groups
WRITTEN = {
    "zeros": (halves(lambda a, n: torch.zeros(len(a), n, a.shape[2], dtype=a.dtype)), True, [6]),
    "empty": (halves(lambda a, n: a.new_empty(len(a), n, a.shape[2])), True, [6]),
    "several": (several, True, [6]),
    "channels": (channels, True, [6]),
    "channels of two layers": (joined, True, [6]),
    "channels in a fixed number": (fixed_channels, True, []),
    "step by step": (step_by_step, True, [6]),
    "one channel": (one_channel, True, []),
    "a view from before that is read": (stale, False, [6]),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_into_slices_is_followed_where_nothing_reads_an_older_view(name):
    forward, replayable, nodes = WRITTEN[name]
    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(4, 6), c=nn.Linear(6, 3)).double().eval()
    x, other = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    program = trace(model, Call((x,)))
    assert bool(program.not_replayable) is not replayable
    if replayable:
        named = dict(model.named_parameters())
        bound = {i: named[v.name] for i, v in enumerate(program.values) if v.name} | program.constants
        env = {program.inputs[0]: other}
        with torch.no_grad():
            execute(program, env, bound, (0, len(program.ops)))
            assert torch.equal(env[program.outputs[0]], model(other))
    graph = mipp.inspect(model, x).graph
    assert [group.size for group in graph.groups.values()] == nodes
    cut_equals_masked(random_plan(graph, model), model, as_call(x))


def test_memory_that_is_used_again_is_not_taken_for_what_lay_there():
    """A copy goes by the name of what it is a copy of, whose memory it does not have, and which may be gone."""
    memory = np.zeros((8, 64), np.float32)

    def forward(m, x):
        turned = torch.from_numpy(memory).copy_(m.first(x)).t().contiguous().t()
        again = torch.from_numpy(memory[:4, :32]).copy_(m.second(x[:4]))
        return m.head(turned) + m.last(again.mean(0))

    net = Net(forward, first=nn.Linear(5, 64), second=nn.Linear(5, 32), head=nn.Linear(64, 3), last=nn.Linear(32, 3))
    program = trace(net, as_call(torch.randn(8, 5)))
    assert "changed in place through another" not in program.not_replayable
