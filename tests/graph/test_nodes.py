"""Nodes are numbered through."""

import numpy as np
from cases import inspected, named


def test_nodes_are_numbered_through():
    graph = inspected(named("concatenation"))[1].graph
    starts = [g.first_node for g in graph.groups.values()]
    assert starts == np.cumsum([0] + [g.size for g in graph.groups.values()])[:-1].tolist()
    mask = graph.keep_mask({"b": (1,)})
    assert mask.sum() == graph.num_nodes - 2
