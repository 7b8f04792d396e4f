"""Layers of one recurrent module have units of their own, as many in each; what is read as one stack stays one."""

import pytest
import torch
from networks import normal
from torch import nn

import mipp
from mipp.graph.call import Call
from mipp.surgery.proof import agrees

KINDS = {
    "LSTM": lambda layers, both: nn.LSTM(3, 8, layers, bidirectional=both, batch_first=True),
    "GRU": lambda layers, both: nn.GRU(3, 8, layers, bidirectional=both, batch_first=True),
    "RNN": lambda layers, both: nn.RNN(3, 8, layers, bidirectional=both, batch_first=True),
    "projected": lambda layers, both: nn.LSTM(3, 8, layers, proj_size=6, bidirectional=both, batch_first=True),
    "time first": lambda layers, both: nn.LSTM(3, 8, layers, bidirectional=both),
}


class Recurrent(nn.Module):
    """Reads the outputs of recurrent layers, or their last states.

    Args:
        rnn: The layers.
        reads: "outputs"; "states", each by its own layer; "mean" of all states; "cells", the last of them.
        given: Whether states to begin with are given: zeros.
    """

    def __init__(self, rnn: nn.RNNBase, reads: str = "outputs", *, given: bool = False) -> None:
        super().__init__()
        self.rnn, self.reads, self.given, self.width = rnn, reads, given, rnn.hidden_size
        width = rnn.proj_size or rnn.hidden_size
        self.head = nn.Linear(width * (1 + rnn.bidirectional) if reads == "outputs" else width, 4)
        self.other = nn.Linear(width, 4)

    def forward(self, x):
        layers = self.rnn.num_layers * (1 + self.rnn.bidirectional)
        state = (
            (torch.zeros(layers, len(x), self.width), torch.zeros(layers, len(x), self.width)) if self.given else None
        )
        output, state = self.rnn(x, state)
        hidden = state[0] if isinstance(state, tuple) else state
        if self.reads == "outputs":
            return self.head(output)
        if self.reads == "mean":
            return self.head(hidden.mean(0))
        if self.reads == "cells":
            return self.head(state[1][-1])
        return self.head(hidden[0]) + self.other(hidden[-1])


def found(model: nn.Module) -> dict[str, mipp.graph.nodes.NodeGroup]:
    return dict(mipp.inspect(model.eval(), normal(2, 5, 3)).groups)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_and_direction_has_units_of_its_own_and_a_cut_equals_its_mask(kind, both, layers):
    torch.manual_seed(0)
    model = Recurrent(KINDS[kind](layers, both)).eval()
    x = normal(4, 5, 3)
    graph = mipp.inspect(model, x).graph
    number = layers * (1 + both)
    assert [g.size for g in graph.groups.values()].count(8) == number
    kept = {n: sorted(torch.randperm(g.size)[: g.size // 2].tolist()) for n, g in graph.groups.items()}
    plan = mipp.PruningPlan.of(graph, model, kept)
    assert agrees(plan, model, Call((x,)))
    assert mipp.apply(plan, model).rnn.hidden_size == 4
    if number > 1:
        assert len({tuple(nodes) for name, nodes in plan.kept.items() if graph.groups[name].size == 8}) > 1


@pytest.mark.parametrize(("reads", "own"), [("states", True), ("cells", True), ("mean", False)])
def test_states_that_are_read_layer_by_layer_leave_the_units_apart(reads, own):
    model = Recurrent(nn.LSTM(3, 8, 3, batch_first=True), reads)
    groups = found(model)
    assert len(groups) == (3 if own else 1)
    result = mipp.prune(model, [normal(40, 5, 3)], mipp.Budget(nodes=0.5), progress=False)
    assert result.model.rnn.hidden_size == 4
    assert set(result.plan.widths.values()) == {4}


def test_states_of_zeros_that_the_code_gives_follow_the_units():
    model = Recurrent(nn.LSTM(3, 8, 2, batch_first=True), given=True)
    assert len(found(model)) == 2
    result = mipp.prune(model, [normal(40, 5, 3)], mipp.Budget(nodes=0.5), progress=False)
    assert result.model.width == result.model.rnn.hidden_size == 4


def test_states_that_another_layer_takes_over_tie_the_units():
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.GRU(3, 8, 2, batch_first=True), nn.GRU(3, 8, 2, batch_first=True)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.decoder(x, self.encoder(x)[1])[0])

    groups = found(Decoder())
    assert [sorted(g.producers) for g in groups.values()] == [["decoder", "encoder"]] * 2  # layer by layer
    model = Decoder()
    result = mipp.prune(model, [normal(40, 5, 3)], mipp.Budget(nodes=0.5), progress=False)
    assert result.model.encoder.hidden_size == result.model.decoder.hidden_size == 4


def test_widths_given_for_one_layer_are_those_of_all_and_others_are_refused():
    model, data = Recurrent(nn.LSTM(3, 8, 2, batch_first=True)), [normal(40, 5, 3)]
    result = mipp.prune(model, data, mipp.Budget(widths={"rnn": 3}), progress=False)
    assert result.plan.widths == {"rnn": 3, "rnn#2": 3}
    with pytest.raises(mipp.InfeasibleBudgetError, match="one size in one layer"):
        mipp.prune(model, data, mipp.Budget(widths={"rnn": 3, "rnn#2": 4}), progress=False)
    with pytest.raises(mipp.PlanMismatchError, match="expected equally many of both"):
        result.plan.with_kept({"rnn": [0, 1]})
    assert mipp.PruningPlan.from_dict(result.plan.to_dict()) == result.plan


@pytest.mark.parametrize("name", ["confidence", "trials", "l1", "random"])
def test_every_way_to_choose_keeps_as_many_of_each_layer(name):
    torch.manual_seed(0)
    model, data = Recurrent(nn.LSTM(3, 8, 2, batch_first=True)), [normal(60, 5, 3)]
    if name == "confidence":
        method = mipp.methods.MIPP(confidence=0.9, share=0.05)
        result = mipp.prune(model, data, method=method, progress=False)
    else:
        method = mipp.methods.MIPP(trials=2) if name == "trials" else mipp.methods.all()[name]()
        result = mipp.prune(model, data, mipp.Budget(nodes=0.6, round_to=2), method, progress=False)
    assert result.plan.widths["rnn"] == result.plan.widths["rnn#2"] < 8
