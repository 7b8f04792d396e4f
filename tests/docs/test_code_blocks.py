"""Every block of code in the README and the pages runs on tiny networks; commands are accepted as written."""

import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from folders import save_images, save_language_model
from llamas import ids, llama
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import mipp
from mipp.cli import app
from mipp.plan.latency import TIMERS
from mipp.zoo import BasicBlock, ImageData, ResNet, load

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MYMODEL = """
import mipp.zoo

def make():
    return mipp.zoo.LeNet5()
"""


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        line: Of the page, counted from 1.
        heading: The nearest heading above.
    """

    page: str
    line: int
    heading: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    for path in PAGES:
        page, text = str(path.relative_to(ROOT)), path.read_text()
        for match in BLOCK.finditer(text):
            before = text[: match.start()]
            heading = re.findall(r"^#+ (.*)", before, re.MULTILINE)[-1]
            if match[1] in languages:
                yield Block(page, before.count("\n") + 1, heading, match[1], match[2])


def network() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(BasicBlock, (1, 1, 1, 1), widths=(16, 16, 16, 16)).eval()


def images() -> dict[str, Any]:
    """The names that most pages go on from."""
    loader = [(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))) for _ in range(2)]
    inputs = [batch for batch, _ in loader]
    return {
        "mipp": mipp, "torch": torch, "nn": nn, "F": nn.functional, "model": network(), "make_dense_model": network,
        "loader": loader, "test_loader": loader, "calibration": inputs, "calibration_batches": inputs,
        "batches": inputs,
    }  # fmt: skip


def words() -> dict[str, Any]:
    pytest.importorskip("transformers")
    batch = ids(8)["input_ids"]
    return images() | {"model": llama(), "loader": [(batch, torch.ones_like(batch))]}


def lightning() -> dict[str, Any]:
    pytest.importorskip("lightning")
    data = TensorDataset(torch.randn(16, 3, 8, 8), torch.randint(0, 10, (16,)))
    return images() | {"loader": DataLoader(data, 8)}  # of a list Lightning takes each entry for a loader


def trainer() -> dict[str, Any]:
    pytest.importorskip("accelerate")
    rows = ids(8)["input_ids"]
    dataset = [{"input_ids": row, "labels": row} for row in rows]
    return words() | {"batches": [{"input_ids": rows}], "dataset": dataset, "make_dense_model": llama}


def folder_of_a_language_model() -> dict[str, Any]:
    save_language_model(Path.cwd())
    arguments = ("prune", "hf:llama", "--text", "notes.txt", "--length", "16", "--macs", "0.7", "--out", "small")
    assert CliRunner().invoke(app, [*arguments, "-q"]).exit_code == 0
    return images()


def in_torch() -> dict[str, Any]:
    pytest.importorskip("torchao")
    names = images()
    small = mipp.prune(names["model"], names["calibration"], mipp.Budget(macs=0.5, round_to=8), progress=False)
    return names | {"result": small}


def vectors() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    return images() | {"model": model, "calibration": [torch.randn(64, 4)]}


PRELUDES: dict[str, Callable[[], dict[str, Any]]] = {
    "Hugging Face models": words,
    "Hugging Face's Trainer": trainer,
    "In torch": in_torch,
    "Lightning": lightning,
    "The paper's settings": vectors,
    "A Hugging Face folder": folder_of_a_language_model,
    "A training loop": images,
}


@pytest.fixture
def _tiny(monkeypatch, tmp_path, quick):
    """A folder of its own, one process of its own, a network whose time is its size, and settings of few steps."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(TIMERS, "torch", milliseconds)
    few = {"initial_iterations": 2, "ordering_iterations": 2, "retrain_iterations": 2}
    paper = mipp.methods.MIPP.paper
    monkeypatch.setattr(mipp.methods.MIPP, "paper", lambda **options: paper(**few, **options))
    monkeypatch.setattr(mipp, "confidence_schedule", lambda steps: [0.9])


def milliseconds(model: nn.Module, *_: object) -> float:
    return 1e-3 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*")  # advice on workers and modes
@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}))
def test_python_runs(page):
    """Each block goes on from those above it; a rule of the graph is quoted as it stands in the code."""
    names: dict[str, Any] = images()
    heading = ""
    rules = "".join(path.read_text() for path in (ROOT / "src/mipp/graph/rules").glob("*.py"))
    for block in blocks("python"):
        if block.page == page and block.text.startswith("@rule("):
            assert block.text in rules, f"{block} is not the rule of the code"
        elif block.page == page:
            if block.heading in PRELUDES and block.heading != heading:
                names = PRELUDES[block.heading]()
            heading = block.heading
            exec(compile("\n" * block.line + block.text, page, "exec"), names)


def made_up() -> ImageData:
    """Twenty images of the shape of MNIST."""
    pixels = torch.randint(0, 256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    return ImageData(pixels.to(torch.uint8), torch.arange(20) % 10, 10, (0.13,), (0.31,), "mnist", "train")


def commands() -> Iterator[tuple[str, list[str]]]:
    for block in blocks("sh", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if (words := shlex.split(line, comments=True)) and "..." not in words:
                yield f"{block} {line.split('  ')[0]}", words


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in commands()])
def test_commands_are_accepted(words):
    """Parsed, not run: a command line has only options and arguments that its command has."""
    if words[0] == "mipp" and "--help" not in words:
        command = typer.main.get_command(app).commands[words[1]]
        command.make_context(words[1], words[2:])
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("grids", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one model", "grids"])
def test_commands_run(monkeypatch, tmp_path, grids):
    """The commands `mipp` of all pages as written, on made-up data."""
    monkeypatch.setattr("mipp.zoo.load", lambda name, split, _: made_up() if name == "mnist" else load(name, split))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mymodel.py").write_text(MYMODEL)
    save_file(mipp.zoo.LeNet5().state_dict(), "dense.safetensors")
    np.save("images.npy", np.random.default_rng(0).normal(size=(32, 1, 28, 28)).astype(np.float32))
    save_images(Path("photos"), 5)
    save_language_model(tmp_path)
    todo = [words for _, words in commands() if words[0] == "mipp" and (words[1] == "compare") == grids]
    assert {words[1] for words in todo} >= (
        {"compare"} if grids else {"inspect", "prune", "frontier", "select", "report", "methods"}
    )
    for words in {" ".join(words): words for words in todo}.values():
        answer = CliRunner().invoke(app, words[1:])
        assert answer.exit_code == 0, f"{' '.join(words)}: {answer.output}"
