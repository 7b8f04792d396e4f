"""Selection of the inputs of a model."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mipp
from mipp.cli import app
from mipp.methods import MIPP


class Net(nn.Sequential):
    """Reads pixels 5 and 10 of 16, and nothing else; 10 through a filter that can be cut off."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2))
        with torch.no_grad():
            self[1].weight.zero_()
            self[1].weight[:2, 5] = torch.tensor([1.0, -1.0])
            self[1].weight[2:, 10] = torch.tensor([1.0, -1.0])


def pictures(channels=1, rows=300):
    return torch.randn(rows, channels, 4, 4, generator=torch.Generator().manual_seed(0))


class TestInputs:
    def test_pixels_that_the_first_layer_reads_are_selected(self):
        found = mipp.select_inputs(Net(), [pictures()], MIPP.paper(estimator="gaussian", confidence=0.999))
        assert found.shape == (4, 4)
        assert found.kept == (5, 10)
        assert found.mask.sum() == 2
        assert found.mask[1, 1]

    def test_of_a_pruned_first_layer_only_what_its_nodes_read(self):
        model = Net()
        budget = mipp.Budget(widths={"1": 2})
        with torch.no_grad():
            model[3].weight[:, 2:] = 0  # so that these nodes go
        small = mipp.prune(model, [pictures()], budget, progress=False).model
        assert mipp.select_inputs(small, [pictures()], num_features=1).kept == (5,)

    def test_all_channels_of_a_pixel_go_together(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2))
        found = mipp.select_inputs(model, [pictures(3)], num_features=7)
        assert found.shape == (4, 4)
        assert len(found.kept) == 7
        assert len(found.information) == 16

    def test_neither_number_nor_confidence_is_refused(self):
        with pytest.raises(mipp.MissingRequirementError, match="num_features"):
            mipp.select_inputs(Net(), [pictures()], MIPP())

    def test_the_command_writes_pixels_and_picture(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.save("data.npy", pictures().numpy())
        (tmp_path / "pixelnet.py").write_text(
            "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
            "        super().__init__(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2))\n"
        )
        monkeypatch.setattr(sys, "path", sys.path[:])
        options = ["--data", "data.npy", "--num-features", "6", "--out", "pixels.json", "--picture", "pixels.png"]
        answer = CliRunner().invoke(app, ["select", "pixelnet:Net", *options])
        assert answer.exit_code == 0, answer.output
        assert "6 of 16" in answer.stdout
        assert len(json.loads((tmp_path / "pixels.json").read_text())["kept"]) == 6
        assert (tmp_path / "pixels.png").read_bytes()[:4] == b"\x89PNG"
        again = CliRunner().invoke(app, ["select", "pixelnet:Net", *options])
        assert again.exit_code == 2
        assert "nothing is overwritten" in again.stderr
