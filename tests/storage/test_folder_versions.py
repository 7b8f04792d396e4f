"""Folders that earlier versions saved load in this one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mipp

FOLDERS = sorted((Path(__file__).parents[1] / "fixtures").glob("saved_*"))


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


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_an_earlier_version_loads(folder):
    expected = load_file(folder / "expected.safetensors")
    dense = Small()
    dense.load_state_dict({name[6:]: t for name, t in expected.items() if name.startswith("model.")})
    small = mipp.load(folder, dense).eval()
    with torch.no_grad():
        found = small(expected["x"])
    torch.testing.assert_close(found, expected["y"], rtol=1e-5, atol=1e-6)  # processors round differently
    assert mipp.load_plan(folder / "plan.json").kept.keys() == {"conv", "mix", "attention", "up"}
