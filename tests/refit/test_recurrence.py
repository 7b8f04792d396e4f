"""A weight that reads what it wrote is fitted to what the dense network reads: then the network runs well by itself."""

import pytest
import torch
from networks import ConvolutionalRNN, Tagger, normal, squared_error
from torch import nn

import mipp
from mipp.data.calibration import read
from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.downstream import downstream
from mipp.graph.layers import is_layer
from mipp.graph.program import StrayedError
from mipp.graph.uses import weight_name
from mipp.refit import least_squares
from mipp.refit.recurrence import Recorded, cut_short, reads_itself, written_by
from mipp.runtime.tensor_store import TensorStore
from mipp.statistics.paths import Paths


class Twice(nn.Module):
    """A layer that reads its own output once, or the input both times."""

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        self.nested, self.layer, self.last = nested, nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        first = torch.tanh(self.layer(x))
        return self.last(torch.tanh(self.layer(first if self.nested else -x)) + first)


def recurrent(kind: str) -> tuple[nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    if kind == "convolution":
        model: nn.Module = ConvolutionalRNN(12)
        with torch.no_grad():
            model.carry.weight.mul_(5)
        return model.eval(), [normal(24, 10, 2, 6, 6, seed=seed) for seed in range(4)]
    layer = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind]
    model = Tagger(layer(5, 24, batch_first=True), 24)
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(3)
    return model.eval(), [normal(24, 30, 5, seed=seed) for seed in range(4)]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_the_refitted_network_runs_better_by_itself_than_one_fitted_to_states_of_the_cut_one(kind, monkeypatch):
    model, (*data, unseen) = recurrent(kind)

    def error() -> float:
        result = mipp.prune(model, data, mipp.Budget(nodes=0.5), mipp.methods.L1(), progress=False)
        return squared_error(result.model, model, [(unseen,)])

    taught = error()
    monkeypatch.setattr(least_squares, "reads_itself", lambda *_: False)
    assert taught < 0.95 * error()


def test_a_convolution_that_reads_its_maps_is_fitted_too():
    model, (*data, unseen) = recurrent("convolution")
    result = mipp.prune(model, data, mipp.Budget(nodes=0.5), mipp.methods.L1(), progress=False)
    cut = mipp.apply(result.plan, model)
    assert squared_error(result.model, model, [(unseen,)]) < 0.7 * squared_error(cut, model, [(unseen,)])


def test_it_is_fitted_in_blocks_where_memory_is_short(monkeypatch):
    model, (*data, unseen) = recurrent("LSTM")
    plan = mipp.prune(model, data, mipp.Budget(nodes=0.5), mipp.methods.L1(), progress=False).plan
    monkeypatch.setattr(least_squares._Refitter, "_blocks", lambda *_: [slice(0, 5), slice(5, None)])
    result = mipp.prune(model, data, mipp.Budget(widths=plan.widths), mipp.methods.L1(), progress=False)
    assert result.plan.kept == plan.kept
    cut = squared_error(mipp.apply(plan, model), model, [(unseen,)])
    assert squared_error(result.model, model, [(unseen,)]) < 0.7 * cut


@pytest.mark.parametrize("nested", [True, False])
def test_a_layer_reads_itself_only_where_its_output_enters_what_it_reads(nested):
    model, call = Twice(nested=nested), Call((torch.randn(3, 6),))
    graph = mipp.inspect(model, call.args[0]).graph
    path = Paths(model, graph).find(call)
    uses = [op for site in graph.sites if site.weight == "layer.weight" for op in path.uses(site)]
    assert len(uses) == 2
    assert reads_itself(path.program, uses) == nested


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_the_weight_of_the_states_reads_itself_and_that_of_the_inputs_does_not(kind):
    model, (data, *_) = recurrent(kind)
    path = Paths(model, mipp.inspect(model, data[:2]).graph).find(Call((data,)))
    by_name = {weight_name(path.program, op): op for op in path.program.ops if is_layer(op.name)}
    assert len(by_name) == 3
    own = {name for name, op in by_name.items() if reads_itself(path.program, [op])}
    assert own == {"rnn.weight_hh_l0"}


def test_dense_values_are_cut_short_to_what_the_cut_network_has():
    model, (data, *_) = recurrent("LSTM")
    graph = mipp.inspect(model, data[:2]).graph
    plan = mipp.PruningPlan.of(graph, model, {"rnn": range(1, 20, 2)})
    dense, cut = (Paths(one, graph).find(Call((data,))) for one in (model, mipp.apply(plan, model)))
    (site,) = (site for site in graph.sites if site.weight == "rnn.weight_hh_l0")
    ((op, behind),) = ((op, downstream(dense.program, op)) for op in dense.uses(site))
    read, shapes = op.inputs[0], [value.shape for value in dense.program.values]
    values = {index: normal(*shapes[index]) for index in (read, op.outputs[0], behind.other)}
    found = cut_short(values, [(site, op, behind)], cut.program.values, graph.keep_mask(plan.kept))
    assert torch.equal(found[read], values[read][..., 1:20:2])
    gates = torch.cat([24 * gate + torch.arange(1, 20, 2) for gate in range(4)])
    assert torch.equal(found[behind.other], values[behind.other][..., gates])
    assert {index: tuple(t.shape) for index, t in found.items()} == {i: cut.program.values[i].shape for i in found}


def test_values_are_written_by_an_op_if_its_result_enters_them():
    program = mipp.inspect(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3)).graph.program
    assert written_by(program, [1]) == {*program.ops[1].outputs, *program.ops[2].outputs}


def test_values_are_recorded_once_and_played_again_without_the_batches_that_stray():
    left_out: dict[int, UnsupportedModelError] = {}
    store, runs = TensorStore(1e9), []

    def run(visit):
        runs.append(1)
        for index in range(3):
            visit(index, {7: torch.full((2,), float(index))})

    recorded, seen = Recorded(run, store, left_out, lambda _, values: {8: values[7] + 1}), []

    def visit(index, values):
        if index == 1:
            raise StrayedError("another path")
        seen.append((index, values[8].tolist()))

    recorded.play(visit)
    recorded.play(visit)
    assert len(runs) == 1
    assert seen == [(0, [1.0, 1.0]), (2, [3.0, 3.0])] * 2
    recorded.play(visit, {2})
    assert seen[4:] == [(2, [3.0, 3.0])]
    assert list(left_out) == [1]
    assert store.used > 0
    recorded.release()
    assert store.used == 0


@pytest.mark.parametrize(("sizes", "first"), [([40] * 3, {0}), ([8] * 3, {0, 1, 2}), ([16] * 20, set(range(5)))])
def test_weights_are_compared_on_a_quarter_of_the_samples_and_on_some_at_least(sizes, first):
    batches = read(mipp.Calibration([normal(size, 3) for size in sizes], max_samples=None), None)
    recorded = Recorded(lambda visit: [visit(i, {}) for i in range(len(sizes))], TensorStore(1e9), {})
    assert recorded.first(batches) == first
