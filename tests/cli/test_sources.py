"""Models and data from where people have them: folders of images, Hugging Face folders, state dicts of torch.save."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from folders import save_images, save_language_model
from torch import nn
from typer.testing import CliRunner

import mipp
from mipp.cli import app

Image = pytest.importorskip("PIL.Image")
transformers = pytest.importorskip("transformers")

STATS = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--size", "16")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current directory with a module of a network and a folder of images in class folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "imagenet_like", raising=False)
    (tmp_path / "imagenet_like.py").write_text(
        "from torch import nn\n"
        "def Net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(12, 2))\n"
    )
    save_images(tmp_path / "images")
    return tmp_path


def run(*arguments, code=0):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done


def test_a_folder_of_images_prunes_and_its_class_folders_give_accuracy(folder):
    done = run("prune", "imagenet_like:Net", "--images", "images", *STATS, "--macs", "0.5", "--out", "small", "--json")
    report = json.loads(done.stdout)["report"]
    assert set(report["before"]["metrics"]) == {"accuracy"}
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    sys.path.insert(0, str(folder))
    from imagenet_like import Net

    assert isinstance(mipp.load("small", Net()), nn.Module)


def test_classes_that_are_not_those_of_the_model_measure_nothing(folder):
    (folder / "images" / "cats").joinpath("0.png").rename(folder / "cat.png")
    (folder / "images" / "cows").mkdir()
    (folder / "cat.png").rename(folder / "images" / "cows" / "0.png")
    done = run("prune", "imagenet_like:Net", "--images", "images", *STATS, "--macs", "0.5", "--json")
    assert "images has 3 class folders, and imagenet_like:Net has 2 outputs" in " ".join(done.stderr.split())
    assert json.loads(done.stdout)["report"]["before"]["metrics"] == {}


def test_images_are_cut_to_the_middle_and_normalised(tmp_path):
    from mipp.cli.images import Transform

    pixels = np.full((40, 20, 3), 255, dtype=np.uint8)
    pixels[:10] = pixels[30:] = 0  # above and below the part that is kept
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = Transform(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(tmp_path / "a.png")
    assert image.shape == (3, 16, 16)
    assert image[:, 2:14].unique().tolist() == [2.0]  # (1 - 0.5) / 0.25


def test_flat_images_prune_without_accuracy(folder):
    done = run("prune", "imagenet_like:Net", "--images", "images/cats", *STATS, "--macs", "0.5", "--json")
    assert json.loads(done.stdout)["report"]["before"]["metrics"] == {}


def test_a_bad_image_is_named_and_refused_or_left_out(folder):
    (folder / "images" / "cats" / "3.png").write_bytes(b"no image")
    arguments = ("prune", "imagenet_like:Net", "--images", "images", *STATS, "--macs", "0.5")
    assert "3.png cannot be read as an image" in run(*arguments, code=2).stderr
    assert "Left out: images/cats/3.png" in run(*arguments, "--skip-bad", "--no-evaluate").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images", "images"), "a wrong normalisation would pass unnoticed"),
        (("--images", "nowhere", *STATS), "nowhere is no folder"),
        (("--images", "empty", *STATS), "empty has no images"),
        (("--images", "images", "--mean", "a", "--std", "b"), "--mean is 'a'"),
        (("--images", "images", "--mean", "1,2", "--std", "1,2"), "have 2 and 2 numbers"),
        (("--images", "images", "--data", "digits"), "--data and --images"),
        ((), "none of them is given"),
        (("--text", "notes.txt"), "--text needs a tokenizer"),
    ],
)
def test_what_is_wrong_is_told_in_a_paragraph(folder, arguments, words):
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("words")
    assert words in run("prune", "imagenet_like:Net", *arguments, "--macs", "0.5", code=2).stderr


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "state_dict": s}, lambda s: _prefixed(s)])
def test_state_dicts_of_torch_save_are_weights(folder, wrap):
    sys.path.insert(0, str(folder))
    from imagenet_like import Net

    torch.manual_seed(3)
    dense = Net()
    torch.save(wrap(dense.state_dict()), "weights.pth")
    options = ("--images", "images", *STATS, "--macs", "1.0", "--no-evaluate", "--out", "whole")
    run("prune", "imagenet_like:Net", "--weights", "weights.pth", *options)
    found = mipp.load("whole", Net())
    for name, tensor in dense.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


def _prefixed(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


def test_pickled_objects_are_never_loaded(folder):
    torch.save(nn.Linear(2, 2), "weights.pth")
    options = ("--images", "images", *STATS, "--macs", "0.5")
    told = run("prune", "imagenet_like:Net", "--weights", "weights.pth", *options, code=2).stderr
    assert "torch.save(model.state_dict(), 'weights.pth')" in told


@pytest.fixture
def language_model(tmp_path):
    """A small Llama with a tokenizer of 20 words, in a folder as save_pretrained writes it."""
    save_language_model(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", [("notes.txt",), ("notes.jsonl", "--column", "text")])
def test_a_hugging_face_folder_is_pruned_on_a_text_file(language_model, monkeypatch, text):
    monkeypatch.chdir(language_model)
    budget = ("--length", "16", "--params", "0.9")
    done = run("prune", "hf:llama", "--text", *text, *budget, "--json")
    report = json.loads(done.stdout)["report"]
    assert set(report["before"]["metrics"]) == {"perplexity"}
    assert report["after"]["params"] < report["before"]["params"]


@pytest.mark.parametrize("budget", [("--params", "0.9"), ("--params", "0.9", "--uniform", "--exclude", "*embed*")])
def test_a_hugging_face_folder_comes_back_as_one(language_model, monkeypatch, budget):
    monkeypatch.chdir(language_model)
    run("prune", "hf:llama", "--text", "notes.txt", "--length", "16", *budget, "--out", "small")
    found = mipp.from_pretrained("small").eval()
    stock = transformers.AutoModelForCausalLM.from_pretrained("small", trust_remote_code="--uniform" not in budget)
    tokenizer = transformers.AutoTokenizer.from_pretrained("small")
    ids = tokenizer("w1 w2 w3", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(found(ids).logits, stock.eval()(ids).logits)
    card = (language_model / "small" / "README.md").read_text()
    assert "base_model: llama" in card
    assert "perplexity" in card
    assert run("report", "small").stdout
    run(
        "prune",
        "hf:small",
        "--text",
        "notes.txt",
        "--length",
        "16",
        "--params",
        "0.9",
        "--out",
        "two",
    )
    assert mipp.from_pretrained("two").num_parameters() < found.num_parameters()


def test_a_pruned_folder_is_a_model_like_any_other(language_model, monkeypatch):
    """Without code of the folder; and it is exported without its cache."""
    monkeypatch.chdir(language_model)
    run("prune", "hf:llama", "--text", "notes.txt", "--length", "16", "--params", "0.9", "--out", "small")
    (language_model / "small" / "modeling_pruned.py").write_text("raise SystemExit('code of the folder ran')")
    inspected = json.loads(run("inspect", "hf:small", "--input", "1,16:int64", "--json").stdout)
    assert inspected["params"] == mipp.from_pretrained("small").num_parameters()
    run("export", "hf:small", "--input", "2,16:int64", "--out", "small.pt2", "--dynamic", "0")


def test_a_wrong_column_and_too_short_a_text_are_named(language_model, monkeypatch):
    monkeypatch.chdir(language_model)
    budget = ("--params", "0.9")
    told = run("prune", "hf:llama", "--text", "notes.jsonl", "--column", "body", *budget, code=2).stderr
    assert "has the columns text" in told
    told = run("prune", "hf:llama", "--text", "notes.txt", "--length", "5000", *budget, code=2).stderr
    assert "has 1,200 tokens" in told


def test_a_library_that_is_not_installed_is_told_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    told = run("inspect", "timm:resnet18", "--input", "1,3,224,224", code=2).stderr
    assert "pip install timm" in told


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    assert (
        "Expected a folder that save_pretrained wrote"
        in run("inspect", f"hf:{tmp_path}", "--input", "1,8:int64", code=2).stderr
    )


def test_a_factory_that_calls_exit_does_not_end_the_command_as_if_all_were_well(tmp_path, monkeypatch):
    (tmp_path / "quits.py").write_text("import sys\n\n\ndef net():\n    sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    done = run("inspect", "quits:net", "--input", "6", "--json", code=2)
    assert json.loads(done.stdout)["error"]["message"] == "quits:net() failed with SystemExit: 0"


def test_a_curve_reads_tokenizer_and_earlier_plan_once(language_model, monkeypatch):
    monkeypatch.chdir(language_model)
    data = ("--text", "notes.txt", "--length", "16")
    run("prune", "hf:llama", *data, "--params", "0.9", "--out", "small")
    read = []
    for module, name in (("mipp.cli.pretrained", "processor"), ("mipp", "load_plan")):
        really = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(f"{module}.{name}", lambda *given, f=really, n=name: read.append(n) or f(*given))
    budgets = ("--budgets", "params=0.9,params=0.8")
    run("frontier", "hf:small", *data, *budgets, "--out", "curve")
    assert sorted(read) == ["load_plan", "processor"]
    dense = [group.size for group in mipp.load_plan("small/plan.json").groups.values()]
    for name in ("params=0.9", "params=0.8"):
        transformers.AutoTokenizer.from_pretrained(f"curve/{name}")
        assert [group.size for group in mipp.load_plan(f"curve/{name}/plan.json").groups.values()] == dense
