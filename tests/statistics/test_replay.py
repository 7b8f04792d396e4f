"""Activations advance op by op: what a stream hands on is what hooks would see."""

import gc
import weakref

import torch
from networks import image_network

import mipp
from mipp.data.calibration import Batch
from mipp.graph.call import Call
from mipp.modules.copies import working_copy
from mipp.runtime.tensor_store import Memory
from mipp.statistics import paths
from mipp.statistics.replay import Stream


def test_values_handed_on_are_those_of_a_pass():
    model = image_network().eval()
    batches = [Batch(Call((torch.randn(4, 3, 8, 8),)), 4, number=number) for number in range(2)]
    graph = mipp.inspect(model, batches[0].call.args[0]).graph
    stream = Stream(model, batches, graph, Memory(1000).store)
    for site in graph.sites:
        op = graph.program.ops[site.op]
        seen: list[torch.Tensor] = []
        handle = model.get_submodule(op.module).register_forward_hook(lambda m, args, out, s=seen: s.append(out))
        with torch.no_grad():
            for batch in batches:
                batch.call(model)
        handle.remove()
        found: dict[int, torch.Tensor] = {}
        stream.advance(
            site.op,
            lambda _, op=op: ((op.outputs[0],), op.index + 1),
            lambda index, values, op=op, f=found: f.update({index: values[op.outputs[0]]}),
        )
        assert all(torch.allclose(found[index], seen[index], rtol=1e-5, atol=1e-6) for index in range(2))
    assert stream.indices() == [0, 1]


def test_the_copy_that_paths_are_found_with_is_let_go(monkeypatch):
    copies = []

    def copied(model):
        made = working_copy(model)
        copies.append(weakref.ref(made))
        return made

    monkeypatch.setattr(paths, "working_copy", copied)
    model = image_network().eval()
    batch = Batch(Call((torch.randn(4, 3, 8, 8),)), 4)
    stream = Stream(model, [batch], mipp.inspect(model, batch.call.args[0]).graph, Memory(1000).store)
    gc.collect()
    assert [one() for one in copies] == [None]
    assert stream.indices() == [0]
