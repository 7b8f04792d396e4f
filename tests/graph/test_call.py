"""A call of a model: its samples, its form, and parts of it."""

import torch
from torch import nn

from mipp.graph.call import Call


def test_a_part_of_a_call_is_the_call_on_some_samples():
    call = Call((torch.arange(8.0).reshape(4, 2),), {"names": list("abcd"), "scale": 2.0})
    part = call.part(1, 3)
    assert torch.equal(part.args[0], call.args[0][1:3])
    assert part.kwargs == {"names": ["b", "c"], "scale": 2.0}
    assert (call.samples, part.samples) == (4, 2)


def test_calls_of_one_form_differ_in_values_only():
    x = torch.zeros(2, 3)
    assert Call((x,)).form == Call((x + 1,)).form
    assert Call((x,)).form != Call((x[:1],)).form
    assert Call((x,), {"scale": 1.0}).form != Call((x,), {"scale": 2.0}).form


def test_a_function_may_say_how_a_model_is_called():
    call = Call((torch.ones(1, 2),), how=lambda model, x: model(2 * x))
    model = nn.Linear(2, 1)
    assert torch.equal(call(model), model(2 * torch.ones(1, 2)))
