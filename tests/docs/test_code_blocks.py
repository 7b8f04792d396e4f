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
from llamas import ids, llama
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import mipp
from mipp.cli import app
from mipp.zoo import BasicBlock, ResNet

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


def vectors() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    return images() | {"model": model, "calibration": [torch.randn(64, 4)]}


PRELUDES: dict[str, Callable[[], dict[str, Any]]] = {
    "Hugging Face models": words,
    "Hugging Face's Trainer": trainer,
    "Lightning": lightning,
    "The paper's settings": vectors,
}


@pytest.fixture
def _tiny(monkeypatch, tmp_path, quick):
    """A folder of its own, one process of its own, a network whose time is its size, and settings of few steps."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    for module in ("mipp.report.layer_times", "mipp.plan.latency"):
        monkeypatch.setattr(f"{module}.latency_ms", milliseconds)
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
def test_commands_of_one_model_run(monkeypatch, tmp_path):
    """`mipp inspect`, `prune`, `report` and `methods` as the README and the how-to page write them, on made-up data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mymodel.py").write_text(MYMODEL)
    save_file(mipp.zoo.LeNet5().state_dict(), "dense.safetensors")
    np.save("images.npy", np.random.default_rng(0).normal(size=(32, 1, 28, 28)).astype(np.float32))
    run = {"inspect", "prune", "report", "methods"}
    todo = [words for name, words in commands() if words[0] == "mipp" and words[1] in run and "hf:" not in name]
    assert {words[1] for words in todo} == run
    for words in {" ".join(words): words for words in todo}.values():
        answer = CliRunner().invoke(app, words[1:])
        assert answer.exit_code == 0, f"{' '.join(words)}: {answer.output}"
