"""Folders and plans that earlier versions wrote load in this one; their checkpoints are refused with the reason."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mipp

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDERS = sorted(FIXTURES.glob("saved_*"))
PLANS = sorted(FIXTURES.glob("plan_*"))
CHECKPOINTS = sorted(FIXTURES.glob("checkpoint_*"))


class Small(nn.Module):
    """Convolutions with batch norm, a residual stream, and torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.mix = nn.Conv2d(12, 16, 2, 2)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.after = nn.LayerNorm(16)
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
        x = self.after(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def written() -> tuple[nn.Module, Tensor]:
    """The dense model that the fixtures were written with, and its input."""
    tensors = load_file(FIXTURES / "saved_0_1_0" / "expected.safetensors")
    dense = Small()
    dense.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    return dense.eval(), tensors["x"]


def check(small: nn.Module, x: Tensor, y: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(small(x), y, rtol=1e-5, atol=1e-6)  # processors round differently


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_an_earlier_version_loads(folder):
    dense, x = written()
    check(mipp.load(folder, dense).eval(), x, load_file(folder / "expected.safetensors")["y"])
    assert mipp.load_plan(folder / "plan.json").kept.keys() == {"conv", "mix", "attention", "up"}


@pytest.mark.parametrize("folder", PLANS, ids=lambda folder: folder.name)
def test_a_plan_of_an_earlier_version_cuts_as_it_did(folder):
    dense, x = written()
    check(mipp.apply(mipp.load_plan(folder / "plan.json"), dense), x, load_file(folder / "expected.safetensors")["y"])


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_checkpoint_of_an_earlier_version_is_refused_with_the_reason_and_left_alone(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    dense, x = written()
    with pytest.raises(mipp.CheckpointError, match=r"an earlier version, without checksums; remove the folder"):
        mipp.prune(dense, [x], mipp.Budget(nodes=0.6), progress=False, checkpoint=tmp_path)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
