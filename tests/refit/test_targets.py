"""The weights that depend on removed nodes, and no others, are refitted."""

import torch
from torch import nn

import mipp
from mipp.graph.nodes import PruningGraph
from mipp.refit.targets import Target, feeder, targets_of


class Tied(nn.Module):
    """An embedding whose weight is also the last layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.before, self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.after, self.head = nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.before(self.embed(tokens))
        return self.head(self.after(x + self.down(self.up(x).relu())).tanh())


def graph_of(model: nn.Module) -> PruningGraph:
    return mipp.inspect(model, torch.arange(8).reshape(2, 4)).graph


def test_what_depends_on_removed_nodes_is_refitted_and_nothing_before_it_nor_what_an_embedding_shares():
    model = Tied()
    graph = graph_of(model)
    plan = mipp.PruningPlan.of(graph, model, {"up": (0, 1, 2)})
    assert [target.weight for target in targets_of(plan, graph)] == ["down.weight", "after.weight"]
    assert targets_of(mipp.PruningPlan.of(graph, model, {}), graph) == []


class Carried(nn.Module):
    """A state that a layer carries on, begun by another."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.carry = nn.Linear(3, 5), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.read(x).tanh()
        for _ in range(3):
            state = self.carry(state).tanh()
        return state


def fed_by(model: nn.Module, weight: str, x: torch.Tensor, start: int = 0) -> str | None:
    graph = mipp.inspect(model, x).graph
    found = feeder(graph, Target(weight, [site for site in graph.sites if site.weight == weight]), start)
    return found and found.weight


def test_the_weight_of_the_inputs_feeds_that_of_the_states_of_the_same_layer_and_direction():
    model, x = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True), torch.randn(2, 5, 3)
    for layer in ("l0", "l0_reverse", "l1", "l1_reverse"):
        assert fed_by(model, f"weight_hh_{layer}", x) == f"weight_ih_{layer}"
    assert fed_by(Carried(), "carry.weight", x) is None


def test_a_weight_that_is_passed_by_already_feeds_nothing():
    model, x = nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3)
    assert fed_by(model, "weight_hh_l0", x) == "weight_ih_l0"
    last = max(site.op for site in mipp.inspect(model, x).graph.sites)
    assert fed_by(model, "weight_hh_l0", x, start=last) is None
