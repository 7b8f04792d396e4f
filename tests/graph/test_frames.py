"""Lines and modules of the model's code are found by its frames, also for methods other than forward."""

from pathlib import Path

import pytest
import torch
from networks import normal
from torch import nn

import mipp
from mipp.graph.call import Call
from mipp.graph.frames import _is_library, line_that_failed, module_that_refused
from mipp.graph.trace import forward, trace


class Bias(nn.Module):
    """A parameter of which a method gives a form, as relative positions do; it is not run as a module."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.shape, self.table = (3, 3, heads), nn.Parameter(torch.randn(9, heads))

    def of_pairs(self):
        return self.table.view(self.shape).permute(2, 0, 1)


class Attention(nn.Module):
    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.bias = heads, Bias(heads)
        self.qkv, self.out = nn.Linear(6, 3 * 2 * heads), nn.Linear(2 * heads, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(len(x), 3, 3, self.heads, 2).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT + self.bias.of_pairs()).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = Attention(), nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(self.attention(x))


def test_the_module_whose_method_makes_a_call_is_told_from_the_one_that_runs():
    ops = {op.name: op for op in trace(Model().eval(), Call((normal(2, 3, 6),))).ops}
    assert (ops["view"].module, ops["view"].holder) == ("attention", "attention.bias")
    assert (ops["reshape"].module, ops["reshape"].holder) == ("attention", "")
    assert (ops["layer_norm"].module, ops["layer_norm"].holder) == ("norm", "")


def test_sizes_of_a_module_of_which_another_method_is_called_follow_the_nodes():
    model = Model().eval()
    found = mipp.inspect(model, normal(2, 3, 6))
    assert {name: group.size for name, group in found.groups.items()} == {"attention.qkv": 4}
    plan = mipp.PruningPlan.of(found.graph, model, {"attention.qkv": [1, 3]})
    small, x = mipp.apply(plan, model), normal(2, 3, 6)
    assert small.attention.bias.shape == (3, 3, 2)
    torch.testing.assert_close(small(x), mipp.mask(plan, model)(x))


class Strict(nn.Module):
    def __init__(self, by) -> None:
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by(x)


def by_code(x):
    raise ValueError("another width, please")


def by_op(x):
    return x.view(5, 5)


@pytest.mark.parametrize(("by", "path"), [(by_code, "1"), (by_op, None)])
def test_a_module_that_refuses_its_input_is_told_from_an_op_that_fails(by, path):
    with pytest.raises(mipp.UnsupportedModelError) as caught:
        forward(nn.Sequential(nn.Linear(6, 6), Strict(by)), Call((normal(2, 6),)))
    assert module_that_refused(caught.value) == path
    assert line_that_failed(caught.value) == f"test_frames.py:{by.__code__.co_firstlineno + 1}"


def test_a_package_whose_name_begins_with_torch_is_not_taken_for_torch():
    """As torchvision's does, which lies beside it."""
    beside = Path(torch.__file__).parent.with_name("torchvision") / "models.py"
    assert not _is_library(str(beside))
    assert _is_library(torch.nn.functional.__file__)
