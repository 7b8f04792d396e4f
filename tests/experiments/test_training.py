"""The paper's recipes; training against a plain loop, killed and resumed, and shared by two processes."""

import io
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from experiments.mipp_2024 import recipes as recipes_module
from experiments.mipp_2024 import train
from experiments.mipp_2024.epochs import Epoch
from experiments.mipp_2024.recipes import AGAIN, ONCE, PAPER, SHORT, Recipe, again, once, recipes
from experiments.mipp_2024.setting import Setting
from rich.console import Console
from torch import nn

import mipp
from mipp import grid, zoo
from mipp.errors import MippError
from mipp.zoo import ImageData

RECIPE = Recipe(epochs=2, batch_size=20, learning_rate=0.05)


@pytest.fixture
def data() -> ImageData:
    images, labels = torch.randint(0, 256, (110, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 10, (110,))
    return ImageData(images, labels, 10, (0.5,), (0.25,), "noise", "train")


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


# Table 2 as printed: batch, weight decay, learning rate, milestones and epochs, before and after pruning.
TABLE_2 = {
    "mnist": (100, 1e-4, (1e-2, (30, 60), 90), (1e-2, (30, 60), 90)),
    "cifar10": (128, 5e-4, (1e-1, (100, 150), 200), (1e-2, (60, 90), 120)),
    "cifar100": (256, 5e-4, (1e-1, (100, 150), 200), (1e-2, (60, 90), 120)),
    "imagenet": (1024, 1e-4, (1e-1, (30, 60), 90), (1e-2, (30, 60), 75)),
}


@pytest.mark.parametrize("name", TABLE_2)
def test_the_recipes_are_the_papers(name):
    batch, decay, *schedules = TABLE_2[name]
    for recipe, (rate, marks, epochs) in zip(recipes(name, "paper"), schedules, strict=True):
        assert (recipe.batch_size, recipe.weight_decay, recipe.epochs) == (batch, decay, epochs)
        edges = [0, *marks, epochs]
        for i, (first, last) in enumerate(itertools.pairwise(edges)):
            for epoch in (first, last - 1):
                assert recipe.rate(7 * epoch, 7 * epochs) == pytest.approx(rate / 10**i)
    assert PAPER.keys() == TABLE_2.keys() < SHORT.keys()


def test_short_recipes_run_under_one_cycle_and_in_float32_on_a_laptop():
    for name in SHORT:
        gpu, laptop = recipes(name, "gpu").before, recipes(name, "laptop").before
        assert replace(gpu, precision="32-true") == laptop
        rates = [gpu.rate(step, 100) for step in range(100)]
        assert max(rates) == pytest.approx(gpu.learning_rate, rel=0.06)
        assert rates.index(max(rates)) in range(10, 16)
        assert rates[-1] < 0.01 * gpu.learning_rate


@pytest.mark.parametrize(("there", "precision"), [(False, "32-true"), (True, "bf16-mixed")])
def test_a_network_is_trained_once_in_what_the_processor_multiplies_fast(there, precision, monkeypatch):
    monkeypatch.setattr(recipes_module, "multiplies_bfloat16", lambda device: there)
    assert {recipe.precision for recipe in [*map(once, ONCE), *map(again, AGAIN)]} == {precision}


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"milestones": (1,), "weight_decay": 0.01}])
def test_training_is_sgd_on_the_drawn_batches(model, data, options):
    recipe = replace(RECIPE, **options)
    twin = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    twin.load_state_dict(model.state_dict())
    recipe(model, data, 4)
    velocity = [torch.zeros_like(parameter) for parameter in twin.parameters()]
    for step in range(10):
        indices = Epoch.draw(len(data), 20, 4, step // 5).order[step % 5]
        loss = F.cross_entropy(twin(data.normalise(indices).double()), data.labels[indices])
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        for parameter, gradient, v in zip(twin.parameters(), gradients, velocity, strict=True):
            slope = gradient + recipe.weight_decay * parameter.detach()
            v.mul_(0.9).add_(slope)
            change = slope + 0.9 * v if recipe.nesterov else v
            parameter.detach().sub_(recipe.rate(step, 10) * change)
    torch.testing.assert_close(weights(model).double(), weights(twin), rtol=1e-4, atol=1e-6)


def test_training_leaves_the_model_as_it_was_but_for_its_weights(data):
    model = zoo.DigitsCNN().eval()
    model.block.train()
    before = {name: (module.training, set(vars(module))) for name, module in model.named_modules()}
    parameters, first = list(model.parameters()), weights(model)
    random, deterministic = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    replace(RECIPE, augment=("crop", "flip", "mixup", "cutout"), setting=Setting(deterministic=True))(model, data, 0)
    assert {name: (module.training, set(vars(module))) for name, module in model.named_modules()} == before
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.is_contiguous() for parameter in parameters)
    assert not torch.equal(weights(model), first)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.are_deterministic_algorithms_enabled() is deterministic


@pytest.mark.parametrize(("fraction", "steps"), [(1.0, 10), (0.5, 5), (0.3, 3), (0.01, 1)])
def test_a_fraction_of_a_training_has_that_fraction_of_the_steps(model, data, fraction, steps):
    calls = []
    RECIPE(model, data, 0, fraction=fraction, after_step=lambda: calls.append(None))
    assert len(calls) == steps


def test_same_seed_same_weights_and_no_epochs_no_training(model, data):
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = []
    for seed, epochs in ((0, 2), (0, 2), (1, 2), (0, 0)):
        model.load_state_dict(start)
        replace(RECIPE, epochs=epochs, augment=("flip",))(model, data, seed)
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[3], nn.utils.parameters_to_vector([start[name] for name, _ in model.named_parameters()]))


def test_bfloat16_trains_float32_weights(model, data):
    exact = replace(RECIPE, precision="32-true")
    rough = replace(RECIPE, precision="bf16-mixed")
    start = weights(model)
    found = []
    for recipe in (exact, rough):
        nn.utils.vector_to_parameters(start.clone(), model.parameters())
        recipe(model, data, 0)
        found.append(weights(model))
    assert found[1].dtype == torch.float32
    moved = (found[0] - start).norm()
    assert 0 < (found[1] - found[0]).norm() < 0.1 * moved


def test_a_loss_that_is_not_finite_is_told(model, data):
    with pytest.raises(MippError, match="lower learning_rate"):
        replace(RECIPE, learning_rate=1e30)(model, data, 0)


def test_the_setting_does_not_name_a_run(tmp_path):
    elsewhere = replace(RECIPE, setting=Setting(checkpoints=tmp_path, every=1, progress=False))
    assert elsewhere.options() == RECIPE.options()
    assert elsewhere == RECIPE
    assert json.loads(json.dumps(RECIPE.options()))["learning_rate"] == 0.05


def test_a_recipe_trains_in_a_grid(tmp_path):
    train, test = zoo.load("digits", "train").subset(slice(400)), zoo.load("digits", "test")
    quick = Recipe(epochs=4, batch_size=16, learning_rate=0.05)

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

    work = grid.Workload("small", make, train, test, before=quick, after=quick, whole=quick, samples=64)
    for method in (mipp.methods.L1(), mipp.methods.IMP()):
        row = grid.perform(grid.Run("a", method, mipp.Budget(nodes=6), 0), work, tmp_path)
        assert row["accuracy"]["dense"] > 60
        assert row["accuracy"]["pruned, trained"] > 50
    other = replace(work, after=replace(quick, augment=("crop",)))
    assert grid.Run("a", method, mipp.Budget(nodes=6), 0).name(other) != row.get("name")
    assert len(grid.collect(tmp_path)) == 2


def test_progress_shows_throughput_and_the_time_that_remains(model, data, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr("experiments.mipp_2024.setting.Console", lambda **_: console)
    RECIPE(model, data, 0)
    assert "loss" in screen.getvalue()
    assert "images/s" in screen.getvalue()
    assert "0:00:00" in screen.getvalue()


def test_tensorboard_gets_loss_and_learning_rate(model, data, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    replace(RECIPE, setting=Setting(tensorboard=tmp_path))(model, data, 0)
    (events,) = tmp_path.rglob("events*")
    read = accumulator.EventAccumulator(str(events)).Reload()
    assert [event.step for event in read.Scalars("loss")] == [5, 10]
    assert read.Scalars("learning rate")[0].value == pytest.approx(RECIPE.rate(4, 10))


class StopError(Exception):
    """The error that ends a training here."""


@pytest.mark.parametrize("change", [None, "recipe", "seed", "data", "weights"])
def test_only_the_same_training_goes_on_where_it_stopped(model, data, tmp_path, change):
    recipe, other = replace(RECIPE, setting=Setting(checkpoints=tmp_path, every=2)), data.subset(range(109, -1, -1))
    start, passes = weights(model), []

    def stop_at_7(*_: object) -> None:
        passes.append(None)
        if len(passes) == 7:
            raise StopError

    model.register_forward_pre_hook(stop_at_7)
    with pytest.raises(StopError):
        recipe(model, data, 0)
    nn.utils.vector_to_parameters(start * (1.01 if change == "weights" else 1), model.parameters())
    recipe = replace(recipe, weight_decay=0.1) if change == "recipe" else recipe
    recipe(model, other if change == "data" else data, int(change == "seed"))
    assert len(passes) - 7 == (4 if change is None else 10)


def test_with_after_step_there_is_no_checkpoint(model, data, tmp_path):
    left = []
    recipe = replace(RECIPE, setting=Setting(checkpoints=tmp_path, every=1))
    recipe(model, data, 0, after_step=lambda: left.extend(tmp_path.iterdir()))
    assert left == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict:
    command = [sys.executable, str(Path(__file__).parents[1] / "trained.py"), str(tmp_path_factory.mktemp("trained"))]
    found = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}  # where `experiments` is
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=found).stdout)


def test_a_training_killed_in_mid_epoch_ends_with_the_same_weights(trained):
    assert trained["ends"][:3] == [0, 9, 0]  # the second was ended by SIGKILL
    assert trained["whole"]["passes"] == 18
    assert trained["resumed"]["passes"] == 3  # the checkpoint of step 15, in mid-epoch, was found
    assert trained["resumed"]["hash"] == trained["whole"]["hash"]
    assert trained["left"] == []


def test_two_processes_train_as_one(trained):
    assert trained["ends"][3:] == [0, 0]
    assert trained["rank0"]["hash"] == trained["rank1"]["hash"]
    alone, shared = (torch.tensor(trained[name]["weights"]) for name in ("alone", "rank0"))
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(tmp_path):
    run = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "experiments.mipp_2024.train",
        "digits_cnn",
        "digits",
    ]
    command = [sys.executable, "-m", *run, "--out", str(tmp_path), "--device", "cpu"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["processes"] == 2
    assert record["top1"] > 90
    assert {path.name for path in tmp_path.iterdir()} == {"record.json", "model.safetensors"}


def test_a_training_that_is_done_is_not_done_again(data, tmp_path):
    """It may have been killed while it was tested."""
    path, options = tmp_path / "model.safetensors", {"network": "a", "seed": 0}
    models = [zoo.DigitsCNN() for _ in range(3)]
    first = train._trained(models[0], RECIPE, data, options, path)
    again = train._trained(models[1], RECIPE, data, options, path)
    assert again == first
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    train._trained(models[2], RECIPE, data, {**options, "seed": 1}, path)
    assert not torch.equal(models[2].conv1.weight, models[1].conv1.weight)
