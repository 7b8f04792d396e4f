"""Groups whose cut differs from their mask are frozen, and the plan is made anew."""

import pytest
import torch
import torch.nn.functional as F
from cases import Case, Keep, Net, assert_same, named, outputs
from networks import Branch, halve, image_batches, image_network, linear_layers, normal, prune_chain, prune_images
from torch import nn

import mipp
from mipp.data.calibration import as_call
from mipp.surgery.precision import forward_in_double
from mipp.surgery.proof import wrong_groups

pytestmark = pytest.mark.usefixtures("quick")


def test_groups_that_fit_alone_but_not_together_are_found_one_by_one(monkeypatch):
    """Only as many are frozen as have to be."""
    model, x = image_network(), image_batches()[0]
    plan = prune_images(model).plan
    monkeypatch.setattr(
        "mipp.surgery.proof.agrees", lambda plan, *_: any(len(plan.kept[n]) == g.size for n, g in plan.groups.items())
    )
    assert wrong_groups(plan, model, as_call(x)) == ["4"]


def test_where_cutting_differs_from_masking_the_group_is_frozen_and_the_plan_made_anew():
    """The number of groups of a convolution is fixed in the code, so the cut model does not run."""
    case = named("groups fixed in the code")
    result = prune_chain(case.model(), case.batches(), mipp.Budget(nodes=0.8))
    assert list(result.plan.kept) == ["2"]
    assert any(f.name in ("0", "1") for f in result.report.frozen)
    assert outputs(result.model, case.batch(3))[0].shape == (3, 2, 4, 4)


@pytest.mark.parametrize(("kind", "passes"), [(torch.float32, 0), (torch.bfloat16, 0), (torch.float64, 2)])
def test_trials_of_a_model_of_32_bits_or_fewer_are_decided_in_float32(monkeypatch, kind, passes):
    """The plan that a prune ends with is proven in float64."""
    seen: list[nn.Module] = []

    def count(model, call):
        seen.append(model)
        return forward_in_double(model, call)

    monkeypatch.setattr("mipp.surgery.proof.forward_in_double", count)
    x = image_batches()[0]
    graph = mipp.inspect(image_network().to(kind), x.to(kind))
    assert len(seen) == passes
    assert list(graph.groups) == list(mipp.inspect(image_network(), x).groups)
    seen.clear()
    prune_images(image_network())
    assert len(seen) == 2


def test_a_trial_that_differs_in_float32_is_tried_in_float64(monkeypatch):
    """Rounding in float32 can be larger than usual, and a cut that is wrong has to be seen."""
    model, x = image_network(), image_batches()[0]
    frozen = {f.name for f in mipp.inspect(model, x).frozen}
    monkeypatch.setattr("mipp.surgery.proof._MARGIN", 0)
    assert {f.name for f in mipp.inspect(model, x).frozen} == frozen
    wrong = named("groups fixed in the code")
    assert any(f.name in ("0", "1") for f in mipp.inspect(wrong.model().float(), wrong.batch(3).float()).frozen)


def test_a_squeeze_of_all_dimensions_survives_a_width_of_one():
    """`squeeze()` takes away more when one channel is left; the group is kept wider, or the cut model is right."""

    def forward(m, x):
        return m.c(F.relu(m.b(F.relu(m.a(x)).mean((2, 3), keepdim=True).squeeze())))

    case = Case("squeeze", lambda: Net(forward, a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 5), c=nn.Linear(5, 2)),
                lambda n, g: torch.randn(n, 3, 6, 6, generator=g, dtype=torch.float64))  # fmt: skip
    model = case.model()
    result = prune_chain(model, case.batches(), mipp.Budget(nodes=2), method=mipp.methods.L1())
    assert_same(
        outputs(mipp.apply(result.plan, model), case.batch(3)), outputs(mipp.mask(result.plan, model), case.batch(3))
    )
    assert outputs(result.model, case.batch(3))[0].shape == (3, 2)


def test_a_proof_that_freezes_everything_ends_in_an_error_of_the_library():
    """The code fixes a width in a way the graph cannot see."""

    def forward(m, x):
        h = F.relu(m.a(x))
        if h.shape[-1] < 6:
            raise RuntimeError("six are needed")
        return m.b(h)

    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2)).double()
    for method in (mipp.methods.L1(), mipp.methods.MIPP(), Keep({"a": (0, 1)})):
        with pytest.raises(mipp.MippError):
            prune_chain(model, method=method)


def test_a_model_that_fixes_its_dtype_is_proven_in_that_dtype():
    class Casts(Branch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.float() / 255)

    pictures = [torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)]
    result = mipp.prune(Casts(), pictures, mipp.Budget(macs=0.5), progress=False)
    assert result.report.after.macs < result.report.before.macs


@pytest.mark.parametrize("multiple", [4, 8])
def test_a_multiple_that_no_rule_knows_is_found_by_trial(multiple):
    def kernel(m, x):
        assert x.shape[-1] % multiple == 0, "rows of whole blocks"
        return x.relu()

    model = linear_layers(lambda m, x: m.b(kernel(m, m.a(x))), 6, 32, 3)
    found = mipp.inspect(model, normal(2, 6))
    assert found.groups["a"].multiple == multiple
    result = halve(model, [normal(32, 6)])
    assert result.report.groups[0].multiple == multiple
    assert len(result.plan.kept["a"]) % multiple == 0
    assert f"In multiples of {multiple} nodes" in str(result.report)
    assert result.report.to_dict()["groups"][0]["multiple"] == multiple


def test_a_multiple_is_found_behind_a_size_that_is_an_attribute():
    def forward(m, x):
        y = m.a(x)
        if y.shape[-1] % 4:
            raise ValueError("a kernel for multiples of four")
        return m.b(y.view(len(x), m.width, 1).relu().flatten(1))

    model = linear_layers(forward, 6, 32, 3)
    model.width = 32
    assert mipp.inspect(model, normal(2, 6)).groups["a"].multiple == 4


class Strict(nn.Module):
    """Heads by an attribute, and a norm that warns of channels it was not made for."""

    def __init__(self):
        super().__init__()
        self.heads, self.table = 2, nn.Parameter(torch.randn(2, 2))
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        split = self.conv(x).unflatten(1, (self.heads, -1))
        return self.last(self.norm((split + self.table[..., None, None]).flatten(1, 2)))


def test_what_trial_cuts_warn_of_is_not_told(recwarn):
    """Until the number of heads is found to follow, a trial hands the norm other channels than it has."""
    found = mipp.inspect(Strict().eval(), torch.randn(2, 3, 6, 6))
    assert {name: group.size for name, group in found.groups.items()} == {"conv": 2}
    assert not recwarn.list


class Together(nn.Module):
    """Two layers of which one may become narrower, but not both."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(6, 8)
        self.first, self.second = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        a, b = self.one(x).relu(), self.two(x).relu()
        if a.shape[-1] < 8 and b.shape[-1] < 8:
            raise ValueError("both are narrow")
        return self.first(a) + self.second(b)


def test_groups_that_fail_only_together_are_no_matter_of_multiples():
    found = mipp.inspect(Together().eval(), torch.randn(2, 6))
    assert len(found.groups) == 1
    assert all(group.multiple == 1 for group in found.groups.values())
