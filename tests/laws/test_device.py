"""On a GPU everything is as on the CPU: the same nodes, the same weights, and results where the model is.

Networks are in float64, so that the two devices agree to rounding errors and choose the same nodes. Where there is no
GPU, MIPP_TEST_DEVICE=simulated tests on a device that is none, but refuses tensors of the CPU as one does.
"""

import copy
import dataclasses
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import simulated_device
import torch
import torch.nn.functional as F
from torch import nn

import mipp
from mipp import grid, zoo
from mipp.estimators import MLP, Gaussian, Samples, Surrogate
from mipp.methods import MIPP, needs_of
from mipp.selectors.pixels import select_inputs

SIMULATED = os.environ.get("MIPP_TEST_DEVICE") == simulated_device.NAME and shutil.which(simulated_device.COMPILER)


if SIMULATED:
    simulated_device.start(Path(__file__).parents[2] / ".pytest_cache" / "device")


DEVICE = simulated_device.NAME if SIMULATED else "cuda"


pytestmark = [
    pytest.mark.skipif(not SIMULATED and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements was resized"),  # by the simulated device
]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


METHODS = mipp.methods.all()


FEWER = {"rounds": 2, "samples": 1, "per_round": 0.5}  # for speed


PERCEPTRONS = MLP(hidden=(16,), num_estimators=3, initial_iterations=20, ordering_iterations=5, retrain_iterations=5)


BUDGET = mipp.Budget(nodes=0.6)


class Convolutions(nn.Module):
    """Batch norms, a residual addition, a grouped convolution, a head."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 12, 3, groups=2)
        self.hidden, self.head = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        x = (x + self.norm2(self.conv2(x))).relu()
        return self.head(self.hidden(self.conv3(x).relu().mean((2, 3))).relu())


class Transformer(nn.Module):
    shape = (5, 8)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


class Recurrence(nn.Module):
    """Layers that cuDNN runs in one kernel, and cells that CUDA does."""

    shape = (5, 8)

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(8, 12, batch_first=True), nn.GRU(12, 10, batch_first=True)
        self.lstm_cell, self.gru_cell = nn.LSTMCell(10, 8), nn.GRUCell(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.gru(self.lstm(x)[0])[0]
        state, hidden = None, None
        for step in x.unbind(1):
            state = self.lstm_cell(step, state)
            hidden = self.gru_cell(state[0], hidden)
        return self.head(hidden)


NETWORKS = (Convolutions, Transformer, pytest.param(Recurrence, marks=needs_cuda))  # which have kernels of their own


def network(kind, dtype=torch.float64):
    """In eval mode, with batch norms that have seen data."""
    torch.manual_seed(0)
    model = kind().to(dtype)
    model(torch.randn(32, *kind.shape, dtype=dtype))
    return model.eval()


def batches(kind, number=4, dtype=torch.float64):
    """Labelled batches, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, *kind.shape, generator=generator, dtype=dtype), torch.arange(16) % 4) for _ in range(number)
    ]


def train(model, *, fraction=1.0, after_step=None):
    """A few steps on whatever device the model is."""
    home = next(model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(max(1, round(5 * fraction))):
        for images, labels in batches(type(model), 1):
            optimiser.zero_grad()
            F.cross_entropy(model(images.to(home)), labels.to(home.device)).backward()
            optimiser.step()
            if after_step is not None:
                after_step()


def pruned(kind, home, method=None, budget=BUDGET, **options):
    return mipp.prune(
        network(kind).to(home),
        batches(kind),
        budget,
        method,
        loss_fn=F.cross_entropy,
        train=train,
        progress=False,
        **options,
    )


def made(name):
    method = METHODS[name]()
    fields = {field.name for field in dataclasses.fields(method)}
    return dataclasses.replace(method, **{n: v for n, v in FEWER.items() if n in fields})


def assert_there(model) -> None:
    assert {t.device.type for t in model.state_dict().values()} == {DEVICE}


def assert_same(found, expected, *, weights=True) -> None:
    """The same nodes kept for as much information; and the same weights."""
    assert found.plan.kept == expected.plan.kept
    for name, nats in expected.plan.information.items():
        assert found.plan.information[name] == pytest.approx(nats, rel=1e-6, abs=1e-9)
    for name, tensor in expected.model.state_dict().items() if weights else ():
        torch.testing.assert_close(found.model.state_dict()[name].cpu(), tensor, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", [Convolutions, pytest.param(Transformer, marks=pytest.mark.slow), NETWORKS[2]])
def test_a_method_keeps_the_same_nodes(kind, name):
    try:
        expected = pruned(kind, "cpu", made(name))
    except mipp.UnsupportedModelError:
        with pytest.raises(mipp.UnsupportedModelError):
            pruned(kind, DEVICE, made(name))
        return
    found = pruned(kind, DEVICE, made(name))
    assert_there(found.model)
    assert_same(found, expected, weights=not needs_of(made(name)).reweights)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_model_stays_on_the_gpu_and_as_it_was(kind):
    model = network(kind).to(DEVICE)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_device_module(DEVICE).get_rng_state()
    mipp.prune(model, batches(kind), BUDGET, progress=False, recover="distill")
    assert_there(model)
    assert torch.equal(torch.get_device_module(DEVICE).get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_graph_is_the_same(kind):
    given = batches(kind)[0][0]
    here = mipp.inspect(network(kind), given).graph
    there = mipp.inspect(network(kind).to(DEVICE), given.to(DEVICE)).graph
    assert [op.name for op in there.program.ops] == [op.name for op in here.program.ops]
    assert {n: g.size for n, g in there.groups.items()} == {n: g.size for n, g in here.groups.items()}
    assert [f.name for f in there.frozen] == [f.name for f in here.frozen]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_model_on_the_cpu_is_pruned_on_the_gpu(kind):
    found = pruned(kind, "cpu", device=DEVICE)
    assert {t.device.type for t in found.model.state_dict().values()} == {"cpu"}
    assert_same(found, pruned(kind, "cpu"))


@pytest.mark.parametrize("kind", NETWORKS)
def test_large_layers_are_worked_on_where_they_are(kind, monkeypatch):
    expected = pruned(kind, "cpu", MIPP(order="greedy"))
    monkeypatch.setattr("mipp.methods.mipp.carried._LARGE", 1)
    assert_same(pruned(kind, DEVICE, MIPP(order="greedy")), expected)


@pytest.mark.parametrize(
    "method",
    [
        MIPP(estimator=Surrogate(hidden=(16,), iterations=20)),
        pytest.param(MIPP(estimator=PERCEPTRONS), marks=needs_cuda),  # takes too long elsewhere
        MIPP(estimator=Gaussian(ranks=True)),
        MIPP(collapse="l1", activation="post"),
    ],
    ids=lambda m: repr(m.estimator) + str(m.collapse),
)
@pytest.mark.parametrize("kind", [Convolutions, Transformer])
def test_other_readings_and_estimators_run(kind, method):
    """Perceptrons are in single precision: the widths agree, the order of nodes that say the same need not."""
    found, expected = pruned(kind, DEVICE, method), pruned(kind, "cpu", method)
    assert_there(found.model)
    assert sum(found.plan.widths.values()) == sum(expected.plan.widths.values())


@pytest.mark.parametrize(
    "estimator", [Gaussian(), Gaussian(ranks=True, basis=3), Surrogate(iterations=50), PERCEPTRONS]
)
@pytest.mark.parametrize("classes", [False, True])
def test_estimates_agree(estimator, classes):
    x = torch.randn(400, 6)
    y = x[:, :2] + 0.5 * torch.randn(400, 2)
    y = (y[:, 0] > 0).long() if classes else y
    here, there = Samples.of(x, y, 0.1), Samples.of(x.to(DEVICE), y.to(DEVICE), 0.1)
    found, expected = (estimator(samples, torch.Generator().manual_seed(0)) for samples in (there, here))
    tight = {"rtol": 1e-9, "atol": 1e-9} if isinstance(estimator, Gaussian) else {"rtol": 1e-2, "atol": 1e-3}
    for removed in (0, 5):
        torch.testing.assert_close(found.marginal(), expected.marginal(), **tight)
        torch.testing.assert_close(found.losses(), expected.losses(), **tight)
        assert found.total() == pytest.approx(expected.total(), rel=tight["rtol"], abs=tight["atol"])
        assert found.confidence(1) == pytest.approx(expected.confidence(1), abs=0.05)
        found.remove(removed)
        expected.remove(removed)


@pytest.mark.parametrize("kind", NETWORKS)
def test_recovery_never_makes_it_worse(kind):
    result = pruned(kind, DEVICE, recover="distill")
    assert_there(result.model)
    note = next(note for note in result.report.notes if note.startswith("Distillation"))
    before, after = (float(word.rstrip(".")) for word in note.split() if word[0].isdigit())
    assert after <= before


def test_a_latency_is_measured_and_held():
    result = pruned(Convolutions, DEVICE, budget=mipp.Budget(latency_ms=1e4))
    assert set(result.plan.widths.values()) == {g.size for g in result.plan.groups.values()}
    assert result.report.before.latency_ms > 0
    with pytest.raises(mipp.InfeasibleBudgetError):
        pruned(Convolutions, DEVICE, budget=mipp.Budget(latency_ms=1e-6))


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_saved_is_loaded_bit_by_bit(kind, tmp_path):
    result = pruned(kind, DEVICE)
    result.save(tmp_path / "small")
    given = batches(kind)[0][0].to(DEVICE)
    with torch.no_grad():
        expected = result.model(given)
        again = mipp.load(tmp_path / "small", network(kind).to(DEVICE))
        assert_there(again)
        assert torch.equal(again(given), expected)
        torch.testing.assert_close(mipp.load(tmp_path / "small", network(kind))(given.cpu()), expected.cpu())


@pytest.mark.parametrize("kind", NETWORKS)
def test_cutting_equals_masking(kind):
    model, plan = network(kind).to(DEVICE), pruned(kind, "cpu").plan
    given = batches(kind)[0][0].to(DEVICE)
    with torch.no_grad():
        torch.testing.assert_close(
            mipp.apply(plan, model)(given), mipp.mask(plan, model)(given), rtol=1e-10, atol=1e-10
        )


def test_an_interrupted_run_goes_on(tmp_path):
    first = pruned(Convolutions, DEVICE, checkpoint=tmp_path)
    again = pruned(Convolutions, DEVICE, checkpoint=tmp_path)
    assert again.resumed
    assert all(torch.equal(t, first.model.state_dict()[n]) for n, t in again.model.state_dict().items())


@pytest.mark.parametrize("limit", ["10KB", None])
def test_activations_in_files_change_nothing(limit):
    assert_same(pruned(Convolutions, DEVICE, memory_limit=limit), pruned(Convolutions, "cpu", memory_limit=limit))


@needs_cuda
def test_memory_does_not_grow_with_the_calibration_data():
    class Wide(nn.Sequential):
        def __init__(self) -> None:
            layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
            super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def peak(number: int) -> int:
        model = Wide().to(DEVICE).eval()
        data = mipp.Calibration((torch.randn(32, 3, 64, 64) for _ in range(number)), max_samples=None)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        mipp.prune(model, data, mipp.Budget(macs=0.5), memory_limit="40MB", progress=False)
        return torch.cuda.max_memory_allocated()

    peak(2)
    assert peak(24) < peak(4) + 40e6  # each batch has 17 MB of activations in each of the first layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Convolutions, Transformer])
def test_other_precisions_are_kept(kind, dtype):
    model = network(kind, torch.float32).to(DEVICE, dtype)
    result = mipp.prune(model, [(x.to(dtype), y) for x, y in batches(kind)], BUDGET, progress=False)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    given = batches(kind)[0][0].to(DEVICE, dtype)
    assert torch.isfinite(result.model(given)).all()


def test_information_and_inputs():
    here, there = network(Convolutions), network(Convolutions).to(DEVICE)
    data = [x for x, _ in batches(Convolutions, 16)]
    assert mipp.information(there, data) == pytest.approx(mipp.information(here, data), rel=1e-6)
    kept = [select_inputs(model, data, num_features=20).kept for model in (here, there)]
    assert kept[0] == kept[1]


@pytest.fixture
def images():
    """Bright and dark images."""
    labels = torch.arange(256) % 2
    pixels = (torch.rand(256, 3, 8, 8) * 100 + 100 * labels[:, None, None, None]).to(torch.uint8)
    return zoo.ImageData(pixels, labels, 2, (0.5,) * 3, (0.25,) * 3, "bright", "train")


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_cuda)])
def test_networks_are_trained_and_tested(images, bf16):
    model = network(Convolutions, torch.float32)
    zoo.fit(model, images, epochs=4, batch_size=32, augment="crop-flip", device=DEVICE, autocast_bf16=bf16)
    assert_there(model)
    assert zoo.accuracy(model, images) > 90


def test_a_grid_runs(images, tmp_path):
    work = grid.Workload(
        "bright",
        lambda seed: network(Convolutions, torch.float32).to(DEVICE),
        images,
        images,
        before=grid.Recipe(epochs=2, batch_size=32),
        after=grid.Recipe(epochs=1, batch_size=32),
        samples=64,
    )
    row = grid.perform(grid.Run("mipp", MIPP(), mipp.Budget(macs=0.5), 0), work, tmp_path)
    assert "error" not in row
    assert row["accuracy"]["refitted, trained"] > 80


class Tied(nn.Module):
    """Two parameters over one storage."""

    shape = (8,)

    def __init__(self) -> None:
        super().__init__()
        layer = partial(nn.Linear, dtype=torch.float64)
        self.first, self.second, self.head = layer(8, 12), layer(8, 12), layer(12, 4)
        self.second.weight = nn.Parameter(self.first.weight.detach())

    def forward(self, x):
        return self.head(self.first(x).relu() + self.second(x).tanh())


def test_tensors_that_share_memory_still_do():
    found, expected = pruned(Tied, "cpu", device=DEVICE), pruned(Tied, "cpu")
    assert found.model.first.weight.data_ptr() == found.model.second.weight.data_ptr()
    assert_same(found, expected)


@pytest.fixture
def no_float64():
    torch.ops.simulated.set_float64(False)
    yield
    torch.ops.simulated.set_float64(True)


@pytest.mark.skipif(not SIMULATED, reason="needs the simulated device")
@pytest.mark.parametrize("kind", [Convolutions, Transformer])
def test_without_float64_the_cpu_works(kind, no_float64, tmp_path):
    here, data = network(kind, torch.float32), batches(kind, 16, torch.float32)
    there = copy.deepcopy(here).to(DEVICE)
    found = mipp.prune(there, data, BUDGET, progress=False)
    assert_there(found.model)
    assert_same(found, mipp.prune(here, data, BUDGET, progress=False))
    assert sum("has no float64" in note for note in found.report.notes) == 1
    assert {p.device.type for p in there.parameters()} == {DEVICE}
    example = data[0][0]
    assert mipp.inspect(there, example.to(DEVICE)).macs == mipp.inspect(here, example).macs
    assert mipp.information(there, data) == mipp.information(here, data)
    found.save(tmp_path / "small")
    with torch.no_grad():
        given = example.to(DEVICE)
        assert torch.equal(mipp.load(tmp_path / "small", there)(given), found.model(given))
        cut, silenced = mipp.apply(found.plan, there)(given), mipp.mask(found.plan, there)(given)
        torch.testing.assert_close(cut, silenced, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not SIMULATED, reason="needs the simulated device")
def test_inputs_are_selected_without_float64(no_float64):
    here, data = network(Convolutions, torch.float32), [x for x, _ in batches(Convolutions, 16, torch.float32)]
    kept = [select_inputs(model, data, num_features=20).kept for model in (here, copy.deepcopy(here).to(DEVICE))]
    assert kept[0] == kept[1]


def test_a_refit_reads_from_the_device_layer_by_layer_and_not_batch_by_batch():
    model = network(Convolutions).to(DEVICE)
    images = torch.randn(64, *Convolutions.shape, dtype=torch.float64, device=DEVICE)

    def reads(batches, **options) -> int:
        with simulated_device.Reads(DEVICE) as seen:
            mipp.prune(model, batches, BUDGET, mipp.methods.L1(), progress=False, **options)
        return seen.count

    own = [reads(images.split(size)) - reads(images.split(size), compensate=False) for size in (8, 32)]
    weights = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    assert own[0] == own[1] <= 10 * weights
