"""Training and accuracy against what they promise."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from mipp import zoo
from mipp.errors import MippError


class Recorder(nn.Module):
    """A linear classifier that keeps the images it saw and the type it computed in."""

    def __init__(self, num_inputs: int, num_classes: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_classes)
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        self.modes.append(self.training)
        logits: Tensor = self.linear(x.flatten(1))
        self.dtype = logits.dtype
        return logits


def bars(count: int = 48, size: int = 8, num_classes: int = 4) -> zoo.ImageData:
    """Images whose label is the position of a bright bar."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    images = torch.randint(0, 120, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 * label] = 255
    return zoo.ImageData(images, labels, num_classes, (0.0,), (1 / 255,), "bars", "train")


def weights_after(seed: int, **options: object) -> Tensor:
    torch.manual_seed(3)
    model = zoo.DigitsCNN(num_classes=4, widths=(4, 4))
    zoo.fit(model, bars(), epochs=1, batch_size=16, seed=seed, **options)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_learns():
    torch.manual_seed(0)
    model, data = zoo.DigitsCNN(num_classes=4, widths=(8, 8)), bars(256)
    assert zoo.accuracy(model, data) < 60
    zoo.fit(model, data, epochs=6, batch_size=32)
    assert zoo.accuracy(model, data) > 98


def test_the_seed_alone_decides_and_no_global_generator_moves():
    before = torch.get_rng_state()
    model = Recorder(64)
    torch.set_rng_state(before)
    zoo.fit(model, bars(), epochs=1, augment="crop-flip")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights_after(0), weights_after(0))
    assert not torch.equal(weights_after(0), weights_after(1))
    assert not torch.equal(weights_after(0), weights_after(0, augment="crop-flip"))


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 6), (0.5, 2), (0.01, 1)])
def test_callbacks_are_called_after_each_step(epochs, steps):
    calls, reports = [], []
    model = Recorder(64, 4)
    zoo.fit(
        model,
        bars(50),
        epochs=epochs,
        batch_size=16,
        learning_rate=1e-6,
        after_step=lambda: calls.append(len(model.seen)),
        progress=lambda *report: reports.append(report),
    )
    assert calls == list(range(1, steps + 1))
    assert [report[:2] for report in reports] == [(step, steps) for step in calls]
    assert all(loss > 0 for *_, loss in reports)
    assert all(len(batch) == 16 for batch in model.seen)


def test_an_epoch_shows_each_image_once():
    data = bars(48)
    model = Recorder(64, 4)
    zoo.fit(model, data, epochs=2, batch_size=16, learning_rate=1e-6)
    first, second = torch.cat(model.seen[:3]), torch.cat(model.seen[3:])
    assert not torch.equal(first, second)
    for seen in (first, second):
        assert sorted(seen.flatten(1).tolist()) == sorted(data.normalise().flatten(1).tolist())


def test_small_data_make_one_smaller_batch():
    model = Recorder(64, 4)
    zoo.fit(model, bars(5), epochs=1, learning_rate=1e-6)
    assert [len(batch) for batch in model.seen] == [5]


def test_augmented_images_are_shifts_and_mirror_images():
    size, margin = 16, 2
    data = bars(40, size)
    model = Recorder(size**2, 4)
    zoo.fit(model, data, epochs=1, batch_size=40, learning_rate=1e-6, augment="crop-flip")
    padded = F.pad(data.normalise(), (margin,) * 4)
    windows = {}
    for down in range(2 * margin + 1):
        for right in range(2 * margin + 1):
            window = padded[:, :, down : down + size, right : right + size]
            for mirrored in (False, True):
                for image in window.flip(3) if mirrored else window:
                    windows[tuple(image.flatten().tolist())] = (down, right, mirrored)
    found = [windows[tuple(image.flatten().tolist())] for image in model.seen[0]]
    assert {down for down, _, _ in found} == {right for _, right, _ in found} == set(range(5))
    assert 10 < sum(mirrored for *_, mirrored in found) < 30


@pytest.mark.parametrize(("autocast_bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_autocast_is_for_those_who_ask(autocast_bf16, dtype):
    model = Recorder(64, 4)
    zoo.fit(model, bars(), epochs=1, learning_rate=1e-6, autocast_bf16=autocast_bf16, device="cpu")
    assert model.dtype == dtype
    assert model.linear.weight.dtype == torch.float32


def test_every_module_gets_its_training_mode_back():
    model = zoo.DigitsCNN(num_classes=4, widths=(4, 4)).train()
    model.bn1.eval()
    modes = [module.training for module in model.modules()]
    zoo.fit(model, bars(), epochs=1)
    zoo.accuracy(model, bars())
    assert [module.training for module in model.modules()] == modes

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.fit(model.eval(), bars(), epochs=1, after_step=stop)
    assert not any(module.training for module in model.modules())


def test_fit_trains_and_accuracy_evaluates():
    model = Recorder(64, 4).eval()
    zoo.fit(model, bars(), epochs=1, learning_rate=1e-6)
    assert all(model.modes)
    model.train().modes.clear()
    zoo.accuracy(model, bars())
    assert not any(model.modes)


def test_fit_follows_a_teacher_where_labels_say_nothing():
    data = zoo.load("digits", "train")
    torch.manual_seed(0)
    teacher = zoo.DigitsCNN()
    zoo.fit(teacher, data, epochs=3)
    teacher.eval()
    lost = replace(data, labels=torch.randint(10, data.labels.shape))
    found = {}
    for name in ("alone", "taught"):
        torch.manual_seed(1)
        model = zoo.DigitsCNN()
        zoo.fit(model, lost, epochs=3, teacher=teacher if name == "taught" else None)
        found[name] = zoo.accuracy(model, zoo.load("digits", "test"))
    assert found["taught"] > 80
    assert found["alone"] < 50


def test_a_loss_that_explodes_is_an_error():
    with pytest.raises(MippError, match=r"the loss is nan after 24 steps; .*lower learning_rate"):
        zoo.fit(Recorder(64, 4), bars(), epochs=8, batch_size=16, learning_rate=1e30)


class Reader(nn.Module):
    """Reads the label from the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(x[:, 0, 0, 0].round().long(), 10).float()


def test_accuracy_is_the_percentage_of_right_answers():
    labels = torch.arange(8)
    images = labels.clone()
    images[5:] = 9
    pixels = images.to(torch.uint8)[:, None, None, None]
    data = zoo.ImageData(pixels, labels, 10, (0.0,), (1 / 255,), "marked", "test")
    assert zoo.accuracy(Reader(), data) == 62.5
    assert zoo.accuracy(Reader(), data, batch_size=3) == 62.5
    assert zoo.accuracy(Reader(), data, limit=6) == pytest.approx(100 * 5 / 6)


@pytest.mark.slow
def test_digits_are_learnt_in_ten_epochs():
    torch.manual_seed(0)
    model = zoo.DigitsCNN()
    zoo.fit(model, zoo.digits("train"), epochs=10)
    assert zoo.accuracy(model, zoo.digits("test")) > 97.5


@pytest.mark.slow
@pytest.mark.skipif("MIPP_DATA_DIR" not in os.environ, reason="MIPP_DATA_DIR names no folder of real data")
def test_public_weights_reach_their_published_accuracy():
    path = Path(os.environ["MIPP_DATA_DIR"], "weights", "resnet20-12fca82f.safetensors")
    try:
        data = zoo.load("cifar10", "test")
        weights = load_file(path)
    except (zoo.DataSetError, FileNotFoundError) as error:
        pytest.skip(str(error))
    model = zoo.resnet20()
    model.load_state_dict(weights)
    assert zoo.accuracy(model, data) == pytest.approx(91.73, abs=0.011)
