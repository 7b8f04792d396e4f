"""The supported patterns: what their manifests say can be pruned is pruned, rightly; the rest has a reason."""

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.record import RESULTS
from benchmarks.supported import PAGE, page
from benchmarks.zoo import PATTERNS
from benchmarks.zoo.checks import (
    against_manifest,
    check,
    cut_equals_masked,
    passed,
    pruned_by_mipp,
    random_plan,
    unaccounted,
)
from cases import one_in
from torch import nn

import mipp
from mipp.data.calibration import as_call

QUICK = [
    "DenseNet", "ResNeXt, fewer groups than channels in each", "MobileNetV3", "GhostNet", "ShuffleNetV2", "Res2Net",
    "YOLO with C2f blocks", "U-Net, transposed convolutions", "ConvNeXt, permute modules", "gMLP", "GroupNorm",
    "PixelShuffle: EDSR", "ConvTranspose2d, grouped", "Parametrized: TCN with weight norm", "einsum",
    "Functional calls on parameters", "LeNet with a literal size",
]  # fmt: skip


ENOUGH = 0.95  # of the manifest's groups


@pytest.mark.parametrize("name", QUICK)
def test_groups_of_the_manifest_are_cut_as_they_are_masked(name):
    pattern = PATTERNS[name]
    model, batch = pattern.model(), pattern.batch()
    graph = mipp.inspect(model, batch).graph
    found = against_manifest(pattern, graph)
    assert found["pruned"] >= ENOUGH * found["groups"], found["missing"]
    assert all(m["reason"] for m in found["missing"])
    assert not unaccounted(graph, model)
    cut_equals_masked(random_plan(graph, model), model, as_call(batch))


class Fixed(nn.Module):
    """Sizes written into the code, which freeze what is in front of them."""

    def forward(self, x):
        return x.view(2, 6, 8, 8)


def test_outputs_that_are_cut_within_their_groups_are_accounted_for():
    transposed = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), Fixed(), transposed, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    graph = mipp.inspect(model, torch.randn(2, 3, 8, 8)).graph
    assert list(graph.groups) == ["2"]
    assert not unaccounted(graph, model)
    assert unaccounted(replace(graph, groups={}), model) == ["2"]


@pytest.mark.parametrize("pattern", one_in(4, list(PATTERNS.values())), ids=PATTERNS)
def test_a_pattern_is_pruned_refitted_and_loaded(pattern):
    model = pattern.model()
    graph = mipp.inspect(model, pattern.batch()).graph
    found = against_manifest(pattern, graph)
    assert found["pruned"] >= ENOUGH * found["groups"], found["missing"]
    assert not unaccounted(graph, model)
    pruned_by_mipp(pattern)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # exporters warn about themselves
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_pattern_goes_all_the_way_to_the_exported_network(pattern):
    row = check(pattern)
    assert row["pruned"] >= ENOUGH * row["groups"], row["missing"]
    assert passed(row), row


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_manifests_name_layers_and_no_more_nodes_than_they_have(pattern):
    model = pattern.model()
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for name, nodes in pattern.groups.items():
        own = [t for key, t in tensors.items() if key == name or key.startswith(f"{name}.")]
        assert any(nodes <= max(t.shape) for t in own), name


def test_the_page_says_what_was_measured():
    rows = json.loads((RESULTS / "supported.json").read_text())["rows"]
    assert PAGE.read_text() == page(rows)
    assert "**not explained**" not in page(rows)
