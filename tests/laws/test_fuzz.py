"""Random networks composed from all kinds of blocks: cutting always equals masking, and nothing is skipped silently.

`make fuzz` runs thousands of them, the default run a few.
"""

import os

import torch
import torch.nn.functional as F
from benchmarks.zoo.checks import random_plan, unaccounted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import mipp
from mipp.data.calibration import as_call
from mipp.plan.plan import PruningPlan
from mipp.surgery.proof import distance, outputs

CASES = int(os.environ.get("MIPP_FUZZ_CASES", "25"))


WIDTHS = st.sampled_from([2, 4, 6, 8, 12])


class Apply(nn.Module):
    """Calls a function on its parts and its input; prints what it does."""

    def __init__(self, what, function, *parts, **sizes):
        super().__init__()
        self.what, self.function = what, function
        self.parts = nn.ModuleList(parts)
        for name, size in sizes.items():
            setattr(self, name, size)

    def extra_repr(self):
        return self.what

    def forward(self, x):
        return self.function(self, x)


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


def conv(draw, c, side):
    out = draw(WIDTHS)
    kernel = draw(st.sampled_from([1, 3]))
    return nn.Conv2d(c, out, kernel, padding=kernel // 2, bias=draw(st.booleans())), out, side


def grouped_conv(draw, c, side):
    groups = draw(st.sampled_from(divisors(c)))
    out = groups * draw(st.integers(1, 3))
    return nn.Conv2d(c, out, 3, padding=1, groups=groups), out, side


def depthwise(draw, c, side):
    multiplier = draw(st.integers(1, 2))
    return nn.Conv2d(c, c * multiplier, 3, padding=1, groups=c), c * multiplier, side


def norm(draw, c, side):
    kinds = [
        nn.BatchNorm2d(c),
        nn.GroupNorm(draw(st.sampled_from(divisors(c))), c),
        nn.InstanceNorm2d(c, affine=draw(st.booleans())),
        Apply("layer norm", lambda m, x: m.parts[0](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(c)),
        Apply("l2 norm", lambda m, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-3)),
    ]
    return draw(st.sampled_from(kinds)), c, side


def activation(draw, c, side):
    softmax = Apply("softmax", lambda m, x: x * x.softmax(dim=1))
    return draw(st.sampled_from([nn.ReLU(), nn.SiLU(), nn.PReLU(c), nn.PReLU(), nn.Hardswish(), softmax])), c, side


def gate(draw, c, side):
    out = draw(WIDTHS)
    functions = [
        lambda m, x: F.glu(m.parts[0](x), dim=1),
        lambda m, x: torch.mul(*m.parts[0](x).chunk(2, dim=1)),
        lambda m, x: torch.mul(*m.parts[0](x).split(m.width, dim=1)),
    ]
    return Apply("gate", draw(st.sampled_from(functions)), nn.Conv2d(c, 2 * out, 1), width=out), out, side


def squeeze_excite(draw, c, side):
    hidden = draw(WIDTHS)
    parts = nn.Conv2d(c, hidden, 1), nn.Conv2d(hidden, c, 1)

    def excite(m, x):
        return x * m.parts[1](F.relu(m.parts[0](F.adaptive_avg_pool2d(x, 1)))).sigmoid()

    return Apply("squeeze-excite", excite, *parts), c, side


def used_twice(draw, c, side):
    return Apply("twice", lambda m, x: m.parts[0](F.relu(m.parts[0](x))), nn.Conv2d(c, c, 3, padding=1)), c, side


def channels_last_linear(draw, c, side):
    out = draw(WIDTHS)
    return Apply("linear", lambda m, x: m.parts[0](x.movedim(1, -1)).movedim(-1, 1), nn.Linear(c, out)), out, side


def attention(draw, c, side):
    heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    joint = nn.Linear(c, 3 * heads * size)

    def attend(m, x):
        b, _, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        parts = m.parts[0](tokens).view(b, h * w, 3, m.heads, m.size).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0))
        return x + m.parts[1](mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (h, w))

    return Apply("attention", attend, joint, nn.Linear(heads * size, c), heads=heads, size=size), c, side


def heads_with_a_parameter(draw, c, side):
    heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    summed = draw(st.booleans())

    def meet(m, x):
        split = m.parts[0](x).unflatten(1, (m.heads, -1))
        mixed = split + m.table[..., None, None]
        return (mixed * (split * mixed).sum(2, keepdim=True).sigmoid() if summed else mixed).flatten(1, 2)

    found = Apply("heads with a parameter", meet, nn.Conv2d(c, heads * size, 1), heads=heads)
    found.table = nn.Parameter(torch.empty(heads, size))
    return found, heads * size, side


def scatter(draw, c, side):
    places = torch.tensor(draw(st.lists(st.integers(0, side - 1), min_size=side, max_size=side)))

    def put(m, x):
        return x.new_zeros(x.shape).scatter_add(2, m.places.view(1, 1, -1, 1).expand_as(x), x)

    found = Apply("scatter", put)
    found.register_buffer("places", places)
    return found, c, side


def shuffle(draw, c, side):
    groups = draw(st.sampled_from(divisors(c)))

    def swap(m, x):
        b, channels, h, w = x.size()
        return x.view(b, groups, channels // groups, h, w).transpose(1, 2).reshape(b, -1, h, w)

    return Apply(f"shuffle {groups}", swap), c, side


def halves(draw, c, side):
    if c % 2:
        return activation(draw, c, side)
    inner, out, _ = chain(draw, c // 2, side, 1, SAME_SIDE)
    return Apply("halves", lambda m, x: _on_second_half(m.parts[0], *x.chunk(2, dim=1)), inner), c // 2 + out, side


def _on_second_half(inner, first, second):
    return torch.cat([first, inner(second)], dim=1)


def residual(draw, c, side):
    inner, out, _ = chain(draw, c, side, 2, SAME_SIDE)
    last = nn.Conv2d(out, c, 1)
    return Apply("residual", lambda m, x: x + m.parts[1](m.parts[0](x)), inner, last), c, side


def concatenation(draw, c, side):
    left, a, _ = chain(draw, c, side, 1, SAME_SIDE)
    right, b, _ = chain(draw, c, side, 1, SAME_SIDE)
    if draw(st.booleans()):
        return Apply("cat with input", lambda m, x: torch.cat([m.parts[0](x), x], dim=1), left), a + c, side
    return Apply("cat", lambda m, x: torch.cat([part(x) for part in m.parts], dim=1), left, right), a + b, side


def pool(draw, c, side):
    if side < 4:
        return activation(draw, c, side)
    return draw(st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2)])), c, side // 2


def transposed(draw, c, side):
    if side > 8:
        return pool(draw, c, side)
    groups = draw(st.sampled_from(divisors(c)))
    out = groups * draw(st.integers(1, 2))
    return nn.ConvTranspose2d(c, out, 2, stride=2, groups=groups), out, 2 * side


def pixels(draw, c, side):
    if c % 4 == 0 and c > 4 and side <= 8:
        return nn.PixelShuffle(2), c // 4, 2 * side
    if c <= 4 and side >= 4:
        return nn.PixelUnshuffle(2), 4 * c, side // 2
    return conv(draw, c, side)


SAME_SIDE = [
    conv, grouped_conv, depthwise, norm, norm, activation, gate, squeeze_excite, used_twice, channels_last_linear,
    shuffle, attention, heads_with_a_parameter, scatter,
]  # fmt: skip


BLOCKS = [*SAME_SIDE, conv, halves, residual, residual, concatenation, pool, transposed, pixels]


def chain(draw, c, side, longest, blocks):
    layers = []
    for _ in range(draw(st.integers(1, longest))):
        layer, c, side = draw(st.sampled_from(blocks))(draw, c, side)
        layers.append(layer)
    return nn.Sequential(*layers), c, side


@st.composite
def networks(draw):
    """A network on images of 3 x 8 x 8."""
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 2**16)))
        body, c, side = chain(draw, 3, 8, 6, BLOCKS)
        while c * side**2 > 4096:
            body, c, side = nn.Sequential(body, nn.MaxPool2d(2)), c, side // 2
        flat = draw(st.booleans())
        pooled = [nn.Flatten()] if flat else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        tail = [*pooled, nn.Linear(c * side**2 if flat else c, 6)]
        model = nn.Sequential(nn.Conv2d(3, 3, 1), body, *tail, nn.ReLU(), nn.Linear(6, 4))
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.7)
    return model.double().eval()


@settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 100))
def test_cutting_a_random_network_equals_masking_it(model, seed):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    graph = mipp.inspect(model, x).graph
    plan = random_plan(graph, model, seed)
    cut, masked = (outputs(change(plan, model), as_call(x)) for change in (mipp.apply, mipp.mask))
    assert distance(cut, masked) <= 1e-10
    whole = mipp.apply(PruningPlan.of(graph, model, {}), model)
    assert torch.equal(outputs(whole, as_call(x))[0], outputs(model, as_call(x))[0])
    assert not unaccounted(graph, model)
