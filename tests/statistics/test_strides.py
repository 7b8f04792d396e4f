"""Images whose channels are last in memory give the same statistics and values, where that is known beforehand."""

import torch
from cases import Net
from torch import nn

import mipp
from mipp.data.calibration import Batch
from mipp.graph.call import Call
from mipp.graph.trace import trace
from mipp.runtime.tensor_store import Memory
from mipp.statistics import observing
from mipp.statistics.observing import site_statistics
from mipp.statistics.replay import Stream
from mipp.statistics.strides import may_turn, turn


def convolution(forward):
    return Net(forward, first=nn.Conv2d(3, 6, 3, padding=1), last=nn.Linear(6 * 8 * 8, 2)).double().eval()


def flat(m, x):
    return m.last(m.first(x).relu().view(len(x), -1))


def test_only_programs_that_read_no_strides_are_turned():
    def changed_through_a_view(m, x):
        x = m.first(x)
        x.view(len(x), -1).relu_()
        return m.last(x.flatten(1))

    def as_it_lies(m, x):
        x = m.first(x)
        return m.last(x.as_strided((len(x), 384), (384, 1)))

    def decided_by_a_value(m, x):
        return flat(m, x if x.sum().item() > -1e9 else -x)

    def taken_for_a_volume(m, x):
        x = nn.functional.max_pool3d(m.first(x), (2, 1, 1))
        return m.last(x.repeat(1, 2, 1, 1).flatten(1))

    images = Call((torch.randn(2, 3, 8, 8, dtype=torch.float64),))
    assert may_turn(trace(convolution(flat), images))
    for forward in (changed_through_a_view, as_it_lies, decided_by_a_value, taken_for_a_volume):
        assert not may_turn(trace(convolution(forward), images))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double()
    assert not may_turn(trace(linear, images))


def test_only_images_are_turned():
    images, rows = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4)
    assert turn(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(turn(images), images)
    assert turn(rows) is rows
    assert turn(images.long()).is_contiguous()


def test_a_view_behind_turned_images_is_the_same_rows(monkeypatch):
    model, images = convolution(flat), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    graph, batch = mipp.inspect(model, images).graph, Batch(Call((images,)), 5, number=0)
    turned = site_statistics(model, graph, [batch])
    monkeypatch.setattr(observing, "may_turn", lambda program: False)
    plain = site_statistics(model, graph, [batch])
    assert turned.keys() == plain.keys()
    for op, own in turned.items():
        for one, other in zip(own.inputs, plain[op].inputs, strict=True):
            assert torch.allclose(one.covariance, other.covariance, rtol=0, atol=1e-6)
    stream = Stream(model, [batch], graph, Memory(1000).store)
    program = stream.path(0).program
    (values,) = [stream.values(0, lambda _: (program.outputs, len(program.ops)))]
    with torch.no_grad():
        assert torch.allclose(values[program.outputs[0]], model(images))
