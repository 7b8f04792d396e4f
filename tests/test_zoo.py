"""Networks against published key names and parameter counts; training and accuracy against what they promise."""

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


def conv(inputs: int, outputs: int, size: int = 3, bias: int = 0) -> int:
    return inputs * outputs * size**2 + bias * outputs + 2 * outputs  # with its batch norm


def count_vgg(layers: list[int]) -> int:
    return sum(conv(i, o, bias=1) for i, o in zip([3, *layers], layers, strict=False)) + 512 * 10 + 10


def count_resnet(depths: tuple[int, ...], expansion: int) -> int:
    total, inputs = conv(3, 64), 64
    for depth, width in zip(depths, (64, 128, 256, 512), strict=True):
        outputs = expansion * width
        for block in range(depth):
            if expansion == 1:
                total += conv(inputs, width) + conv(width, width)
            else:
                total += conv(inputs, width, 1) + conv(width, width) + conv(width, outputs, 1)
            if block == 0 and inputs != outputs:
                total += conv(inputs, outputs, 1)
            inputs = outputs
    return total + inputs * 10 + 10


def count_cifar_resnet(depth: int) -> int:
    n = (depth - 2) // 6
    stages = [(16, 16), (16, 32), (32, 64)]
    return conv(3, 16) + sum(conv(i, o) + (2 * n - 1) * conv(o, o) for i, o in stages) + 64 * 10 + 10


# Published: LeNet-5 61,706; VGG-16 and ResNets of github.com/kuangliu/pytorch-cifar; CIFAR ResNets as 0.27 M ... 1.7 M.
COUNTS = {
    "lenet5": 61_706,
    "digits_cnn": 93_546,
    "vgg11": 9_231_114,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
INPUTS = {"lenet5": (1, 28, 28), "digits_cnn": (1, 8, 8)}


def build(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return zoo.networks()[name](**options)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_network_has_a_published_count():
    assert zoo.networks().keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_networks_have_the_published_number_of_parameters(name):
    assert num_parameters(build(name)) == COUNTS[name]


def test_the_published_numbers_follow_from_the_layers():
    stages = [64, 128, 256, 512, 512]
    for name, depths in {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}.items():
        assert COUNTS[name] == count_vgg([w for w, d in zip(stages, depths, strict=True) for _ in range(d)])
    assert COUNTS["resnet18"] == count_resnet((2, 2, 2, 2), 1)
    assert COUNTS["resnet34"] == count_resnet((3, 4, 6, 3), 1)
    assert COUNTS["resnet50"] == count_resnet((3, 4, 6, 3), 4)
    for depth in (20, 32, 44, 56, 110):
        assert COUNTS[f"resnet{depth}"] == count_cifar_resnet(depth)


@pytest.mark.parametrize("name", COUNTS)
def test_networks_map_images_to_one_logit_a_class(name):
    channels, *size = INPUTS.get(name, (3, 32, 32))
    for options in [{}, {"num_classes": 7, "in_channels": channels + 1}]:
        model = build(name, **options)
        images = torch.zeros(2, options.get("in_channels", channels), *size, device="meta")
        assert model(images).shape == (2, options.get("num_classes", 10))


@pytest.mark.parametrize(
    ("name", "widths", "size"),
    [
        ("lenet5", (2, 3, 5, 4), 28),
        ("digits_cnn", (3, 4), 8),
        ("vgg11", (2, 3, 4, 5, 6), 32),
        ("resnet18", (2, 3, 4, 5), 32),
        ("resnet50", (2, 3, 4, 5), 32),
        ("resnet20", (2, 3, 6), 32),
    ],
)
def test_narrow_networks_run_forward_and_backward(name, widths, size):
    model = zoo.networks()[name](in_channels=1, widths=widths)
    logits = model(torch.randn(3, 1, size, size))
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet20"])
def test_larger_images_are_welcome_too(name):
    assert build(name)(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 10)


def test_lenet5_has_its_five_layers():
    shapes = {key: tuple(value.shape) for key, value in build("lenet5").state_dict().items() if key.endswith("weight")}
    assert shapes == {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }


def expected_keys(depths: tuple[int, ...], convolutions: int, projected: tuple[int, ...], classifier: str) -> set[str]:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    blocks = [f"layer{s}.{i}." for s, depth in enumerate(depths, 1) for i in range(depth)]
    pairs = [(f"{block}conv{j}", f"{block}bn{j}") for block in blocks for j in range(1, convolutions + 1)]
    pairs += [(f"layer{s}.0.downsample.0", f"layer{s}.0.downsample.1") for s in projected]
    keys = {f"{classifier}.weight", f"{classifier}.bias"}
    for convolution, bn in [("conv1", "bn1"), *pairs]:
        keys |= {f"{convolution}.weight"} | {f"{bn}.{entry}" for entry in norm}
    return keys


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", ((2, 2, 2, 2), 2, (2, 3, 4), "fc")),
        ("resnet34", ((3, 4, 6, 3), 2, (2, 3, 4), "fc")),
        ("resnet50", ((3, 4, 6, 3), 3, (1, 2, 3, 4), "fc")),
        ("resnet20", ((3, 3, 3), 2, (), "linear")),
        ("resnet56", ((9, 9, 9), 2, (), "linear")),
        ("resnet110", ((18, 18, 18), 2, (), "linear")),
    ],
)
def test_residual_networks_have_the_published_key_names(name, arguments):
    assert set(build(name).state_dict()) == expected_keys(*arguments)


def test_vgg_has_features_and_a_classifier():
    model = zoo.vgg16(widths=(2, 2, 2, 2, 2))
    assert {key.split(".")[0] for key in model.state_dict()} == {"features", "classifier"}
    assert sum(isinstance(module, nn.Conv2d) for module in model.features) == 13
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.features) == 5


@pytest.mark.parametrize(("widths", "pads"), [((4, 8, 16), (2, 2)), ((4, 7, 8), (1, 2))])
def test_shortcuts_subsample_and_pad_with_zeros_on_both_sides(widths, pads):
    x = torch.randn(2, 4, 9, 9)
    shortcut = zoo.resnet20(widths=widths).layer2[0].downsample
    assert torch.equal(shortcut(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *pads)))
    assert not list(shortcut.parameters())


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth is {depth}; expected 6n \+ 2"):
        zoo.CifarResNet(depth)


@pytest.mark.skipif("MIPP_DATA_DIR" not in os.environ, reason="MIPP_DATA_DIR names no folder of real data")
@pytest.mark.parametrize("file", ["resnet20-12fca82f", "resnet56-4bfd9763"])
def test_public_weights_load_without_a_key_left_over(file):
    path = Path(os.environ["MIPP_DATA_DIR"], "weights", f"{file}.safetensors")
    if not path.is_file():
        pytest.skip(f"no {path}")
    model = zoo.networks()[file.split("-")[0]]()
    model.load_state_dict(load_file(path), strict=True)


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
