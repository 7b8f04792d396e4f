"""Calls of the command, on networks of a module that the tests write."""

import json

import torch
from torch import nn
from typer.testing import CliRunner

from mipp.cli import app

NETS = """
import torch
from torch import nn

print("imported")

class Net(nn.Sequential):
    def __init__(self, hidden=8):
        super().__init__(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

class Tokens(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 2))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Net(), Net()
    def forward(self, x, y):
        return self.a(x) + self.b(y)

class Needy(nn.Module):
    def __init__(self, width, depth):
        super().__init__()

class Digits(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

made = Net()
number = 3

def failing():
    raise ValueError("no such luck")

def wrong():
    return "a string"
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def result_of(*arguments):
    """The answer of the command with --json."""
    answer = run(*arguments, "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def refusal(*arguments):
    """The paragraph with which the command refuses."""
    answer = run(*arguments)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "Traceback" not in answer.stderr
    return last


def prune(*arguments, model="nets:Net", data="data.npy"):
    return ("prune", model, "--data", data, *arguments)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
