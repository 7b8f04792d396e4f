"""Networks, data and calls that several test files use."""

from itertools import pairwise

import pytest
import torch
from cases import VECTOR, Net, assert_same, named
from torch import Tensor, nn

import mipp

HALF = mipp.Budget(nodes=0.5)


def image_network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def image_batches(batches: int = 3, samples: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, 3, 8, 8, generator=generator) for _ in range(batches)]


def prune_images(model=None, data=None, budget=HALF, **options) -> mipp.Result:
    return mipp.prune(
        image_network() if model is None else model,
        image_batches() if data is None else data,
        budget,
        progress=False,
        **options,
    )


def refusal(kind=mipp.MippError, **options) -> str:
    """The paragraph with which `prune` refuses; the model is as it was."""
    model = options.pop("model", None) or image_network()
    before = {n: t.clone() for n, t in model.state_dict().items()} if isinstance(model, nn.Module) else {}
    with pytest.raises(kind) as caught:
        prune_images(model, **options)
    assert all(torch.equal(t.nan_to_num(), before[n].nan_to_num()) for n, t in model.state_dict().items()) or not before
    message = str(caught.value)
    assert "\n" not in message
    assert 40 < len(message) < 700
    return message


def refused(call) -> str:
    """The paragraph with which something else refuses."""
    with pytest.raises(mipp.MippError) as caught:
        call()
    return str(caught.value)


class Small(nn.Module):
    """A convolution with batch norm, a residual block, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 3, 3, padding=1)
        self.outer = nn.Conv2d(3, 4, 3, padding=1)
        self.fc1 = nn.Linear(4 * 9, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x):
        x = nn.functional.relu(self.bn(self.conv(x)))
        x = nn.functional.relu(x + self.outer(nn.functional.relu(self.inner(x))))
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        return self.fc2(nn.functional.relu(self.fc1(x)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def halve(model: nn.Module, data, **options) -> mipp.Result:
    return mipp.prune(model, data, HALF, progress=False, **options)


def linear_layers(function, *widths: int) -> nn.Module:
    """A network with the linear layers a, b, c, ..."""
    torch.manual_seed(0)
    return Net(function, **{name: nn.Linear(*pair) for name, pair in zip("abcdef", pairwise(widths), strict=False)})


def squared_error(model: nn.Module, other: nn.Module, calls) -> float:
    with torch.no_grad():
        return sum(float((model(*call) - other(*call)).square().mean()) for call in calls)


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def linear_chain() -> nn.Module:
    return named("linear chain").model()


def vectors(n: int = 20, seed: int = 0) -> torch.Tensor:
    return VECTOR(n, torch.Generator().manual_seed(seed))


def prune_chain(model=None, data=None, budget=HALF, *args, **options) -> mipp.Result:
    return mipp.prune(
        model or linear_chain(), [vectors()] if data is None else data, budget, *args, progress=False, **options
    )


def state_of(result) -> dict:
    return result.model.state_dict()


def assert_equal_results(a: mipp.Result, b: mipp.Result) -> None:
    assert a.plan.kept == b.plan.kept
    assert_same(list(state_of(a).values()), list(state_of(b).values()), rtol=1e-9)


class Once:
    """An iterable that may be read once, and counts what is taken."""

    def __init__(self, batches):
        self.batches, self.taken, self.read = batches, 0, False

    def __iter__(self):
        assert not self.read, "read twice"
        self.read = True
        for batch in self.batches:
            self.taken += 1
            yield batch


class Residual(nn.Module):
    """Two blocks on a stream, behind a convolution whose channels cannot be removed with theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.inner = nn.ModuleList(nn.Conv2d(6, 8, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(8, 6, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer, norm in zip(self.inner, self.outer, self.norms, strict=True):
            x = (x + norm(outer(inner(x).relu_()))).relu_()
        return self.head(x.mean((2, 3)))


class Branch(nn.Module):
    """A residual branch behind a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.b(self.a(x).relu()))


class Rotated(nn.Module):
    """Angles in another type than the weights, which are not saved, and a number beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.gain = nn.Linear(10, 16).bfloat16(), nn.Linear(16, 4).bfloat16(), 1.0
        self.register_buffer("angles", torch.rand(10) + 0.1, persistent=False)

    def forward(self, x):
        return self.b((self.a((x * self.angles * self.gain).cos().bfloat16())).relu())


class Tagger(nn.Module):
    """Recurrent layers of some kind, and a linear layer."""

    def __init__(self, rnn: nn.Module, width: int, outputs: int = 4) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(width, outputs)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class ConvolutionalRNN(nn.Module):
    """Maps that a convolution carries from step to step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read, self.carry = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        state = torch.tanh(self.read(x[:, 0]))
        for step in x.unbind(1):
            state = torch.tanh(self.read(step) + self.carry(state))
        return self.head(state.mean((2, 3)))
