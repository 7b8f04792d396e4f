"""Integers that modules hold: found, read and set by path; objects that others hold, too, keep theirs."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from cases import assert_same
from networks import halve, normal
from torch import nn

import mipp
from mipp.modules.sizes import attributes_of, numbers, set_size, size_at, take_size


class Rearranged(nn.Module):
    """Splits heads by sizes in a tuple made from a dict that its copies are made of, as layers of einops do."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        self.lengths, self._pairs = lengths, tuple(lengths.items())

    def forward(self, x):
        return x.unflatten(-1, (dict(self._pairs)["heads"], -1)).transpose(1, 2)

    def __getstate__(self):
        return {"lengths": self.lengths}

    def __setstate__(self, state):
        self.__init__(**state["lengths"])


class Held(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.heads, self.shape, self.sizes, self.config = 4, (4, 8), {"heads": 4, "a.b": 4}, config
        self.flag = True


def test_integers_are_found_by_their_paths():
    module = Held(SimpleNamespace(widths=[4, 8]))
    found = {path: n for path, n in numbers(attributes_of(module)) if not path.startswith("_")}
    assert found == {"heads": 4, "shape.0": 4, "shape.1": 8, "sizes.heads": 4}
    assert size_at(module, "config.widths.1") == 8
    assert [size_at(module, p) for p in ("none", "shape.2", "shape.x", "config.none.0", f"shape.{'9' * 5000}")] == [
        None
    ] * 5


@pytest.mark.parametrize("path", ["heads", "shape.0", "sizes.heads", "config.widths.0"])
def test_one_size_is_set_and_what_others_hold_stays(path):
    config = SimpleNamespace(widths=[4, 8])
    module, other = Held(config), Held(config)
    module.shape = other.shape
    module.sizes = other.sizes
    set_size(module, path, 3)
    assert size_at(module, path) == 3
    assert [size_at(other, p) for p in ("heads", "shape.0", "sizes.heads", "config.widths.0")] == [4] * 4
    twin = Held(config)
    take_size(twin, module, path)
    assert size_at(twin, path) == 3


def test_a_module_that_says_what_its_copies_are_made_of_is_made_anew():
    module = Rearranged(heads=4).eval()
    assert dict(numbers(attributes_of(module))) == {"lengths.heads": 4}
    set_size(module, "lengths.heads", 2)
    assert (module._pairs, module.training) == ((("heads", 2),), False)
    assert copy.deepcopy(module)._pairs == module._pairs
    other = Rearranged(heads=4)
    take_size(other, module, "lengths.heads")
    assert other._pairs == module._pairs


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.split = Rearranged(heads=4)

    def forward(self, x):
        heads = F.scaled_dot_product_attention(*(self.split(layer(x)) for layer in (self.q, self.k, self.v)))
        return self.out(heads.transpose(1, 2).flatten(2))


class Stages(nn.Module):
    """A stage whose width stands in a list of settings, and is read from there by the model."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(widths=[6, 9])
        self.first, self.second, self.head = nn.Linear(12, 6), nn.Linear(6, 9), nn.Linear(9, 3)

    def forward(self, x):
        maps = self.second(F.relu(self.first(x))).mT[..., None]
        return self.head(maps.permute(0, 2, 3, 1).reshape(len(x), -1, self.config.widths[-1]).mean(1))


@pytest.mark.parametrize(("kind", "groups"), [(Attention, {"q": 4}), (Stages, {"first": 6, "second": 9})])
def test_networks_whose_sizes_stand_in_dicts_and_lists_are_cut_saved_and_copied(kind, groups, tmp_path):
    torch.manual_seed(0)
    model, x = kind().eval(), normal(3, 5, 12)
    found = mipp.inspect(model, x)
    assert {name: group.size for name, group in found.groups.items()} == groups
    result = halve(model, [normal(16, 5, 12, seed=seed) for seed in range(3)])
    double = copy.deepcopy(model).double().requires_grad_(False)
    assert_same([mipp.apply(result.plan, double)(x.double())], [mipp.mask(result.plan, double)(x.double())])
    small = result.model.eval()
    result.save(tmp_path / "saved")
    assert torch.equal(mipp.load(tmp_path / "saved", model)(x), small(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x))
    if kind is Stages:
        assert model.config.widths == [6, 9]
