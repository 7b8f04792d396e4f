"""Behind a layer: its batch norm, the stream that it is added to, and its ReLU."""

import torch
from networks import image_network
from torch import nn

from mipp.graph.call import Call
from mipp.graph.downstream import downstream, norm_scale, read_by_relu
from mipp.graph.trace import trace
from mipp.modules.copies import tensors_by_name, working_copy


def traced(model: nn.Module, *shape: int):
    program = trace(working_copy(model), Call((torch.randn(*shape),)))
    return program, [op for op in program.ops if op.name in ("linear", "conv2d")]


def test_a_batch_norm_and_the_relu_behind_it_are_found():
    program, (first, second, last) = traced(image_network(), 2, 3, 8, 8)
    after = downstream(program, first)
    assert program.ops[after.norm].name == "batch_norm"
    assert after.addition == -1
    assert read_by_relu(program, first, after) == program.ops[after.norm].outputs[0]
    assert downstream(program, second).norm == downstream(program, last).norm == -1


def test_the_stream_that_a_layer_is_added_to_is_found():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return torch.relu(x + self.inner(x))

    program, (layer,) = traced(Residual(), 2, 3)
    after = downstream(program, layer)
    assert program.ops[after.addition].name == "add"
    assert after.other == program.inputs[0]


def test_the_scale_of_a_batch_norm_is_what_it_multiplies_by():
    norm = nn.BatchNorm2d(8)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm).eval()
    program, (layer,) = traced(model, 2, 3, 4, 4)
    scale = norm_scale(program, downstream(program, layer).norm, tensors_by_name(model))
    ones, zeros = torch.ones(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)
    assert torch.allclose(scale.float(), (norm(ones) - norm(zeros)).flatten(), atol=1e-5)
