"""Whatever is called, Python's, NumPy's and torch's random states are as before, also when it raises."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from cases import gauss
from torch import nn
from torch.optim import SGD

import mipp
from mipp.export import export

pytestmark = pytest.mark.usefixtures("quick")


class Drawing(nn.Module):
    """Draws random numbers of all kinds wherever code of the caller's runs: when it is made, copied, run, written."""

    fails = False

    def __init__(self):
        super().__init__()
        draw()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def __deepcopy__(self, memo):
        draw()
        made = Drawing.__new__(Drawing)
        nn.Module.__init__(made)
        made.a, made.b = nn.Linear(4, 8), nn.Linear(8, 3)
        for name, parameter in self.named_parameters():
            mine = made.get_parameter(name)
            mine.data = parameter.detach().clone()
            memo[id(parameter)] = mine
        return made.train(self.training)

    def forward(self, x):
        draw()
        if Drawing.fails:
            raise ValueError("on purpose")
        return self.b(self.a(x).relu())


def draw():
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.rand(1)


def states():
    numpy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()


def evaluate(model):
    draw()
    return 0.0


def train(model, *, fraction=1.0, after_step=None):
    draw()
    model.b.weight.grad = torch.ones_like(model.b.weight)
    SGD([model.b.weight], 0.1).step()
    after_step()


BATCHES = [gauss(4)(8, torch.Generator().manual_seed(i)).float() for i in range(3)]
BUDGET = mipp.Budget(nodes=0.5)
prune = partial(mipp.prune, calibration=BATCHES, budget=BUDGET, progress=False)


class Writer:
    def log(self, numbers, step):
        pass


ENTRIES = {
    "prune": lambda made, folder: prune(made.model, evaluate=evaluate),
    "recover": lambda made, folder: prune(made.model, recover="distill"),
    "resume": lambda made, folder: prune(made.model, checkpoint=folder / "checkpoint"),
    "imp": lambda made, folder: prune(made.model, method=mipp.methods.IMP(), train=train),
    "frontier": lambda made, folder: mipp.frontier(made.model, BATCHES, [BUDGET], evaluate=evaluate, progress=False),
    "inspect": lambda made, folder: mipp.inspect(made.model, BATCHES[0]),
    "information": lambda made, folder: mipp.information(made.model, BATCHES),
    "select inputs": lambda made, folder: mipp.select_inputs(made.model, BATCHES, num_features=2),
    "apply": lambda made, folder: mipp.apply(made.result.plan, made.model),
    "mask": lambda made, folder: mipp.mask(made.result.plan, made.model),
    "save": lambda made, folder: made.result.save(folder / "new"),
    "log report": lambda made, folder: mipp.log_report(made.result.report, Writer()),
    "load": lambda made, folder: mipp.load(made.saved, made.model),
    "load a factory": lambda made, folder: mipp.load(made.saved, Drawing),
    "load a plan": lambda made, folder: mipp.load_plan(made.saved / "plan.json"),
    "page": lambda made, folder: made.result.report.to_html(folder / "page.html"),
    "export": lambda made, folder: export(made.plain, BATCHES[0], folder / "model.pt2"),
    "carry over": lambda made, folder: mipp.carry_over(SGD(made.model.parameters(), 0.1), made.model, made.result),
}


class Made:
    def __init__(self, folder):
        self.model, self.plain, self.saved = Drawing(), nn.Linear(4, 2), folder / "saved"
        self.result = prune(self.model)
        self.result.save(self.saved)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_random_states_are_as_before(entry, fails, made, tmp_path, monkeypatch):
    monkeypatch.setattr(Drawing, "fails", fails)
    before = states()
    try:
        ENTRIES[entry](made, tmp_path)
    except mipp.MippError:
        assert fails
    assert states() == before


def test_every_public_function_has_its_entry():
    """Classes of settings, plans and errors draw nothing."""
    functions = {n for n in mipp.__all__ if callable(getattr(mipp, n)) and not isinstance(getattr(mipp, n), type)}
    named = {name.replace(" ", "_") for name in ENTRIES} | {"load_plan"}
    assert functions - named == {"carry_over_average", "confidence_schedule", "from_pretrained", "save_pretrained"}
