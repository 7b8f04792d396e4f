"""The weights that depend on removed nodes, and no others, are refitted."""

import torch
from torch import nn

import mipp
from mipp.graph.nodes import PruningGraph
from mipp.refit.targets import targets_of


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
