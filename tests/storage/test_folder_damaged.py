"""A saved folder with damaged weights or a damaged report is refused, whatever the damage."""

import json

import pytest
import torch
from cases import Keep
from networks import image_network, prune_images
from safetensors.torch import load_file, save_file
from torch import nn

import mipp
from mipp.storage.folder import read_report

pytestmark = pytest.mark.usefixtures("quick")

TYPES = "types of buffers that are not saved"


@pytest.fixture
def folder(tmp_path):
    prune_images().save(tmp_path / "run")
    return tmp_path / "run"


def rewrite(folder, metadata=None, **tensors):
    file = folder / "model.safetensors"
    save_file({**load_file(file), **tensors}, file, metadata)


@pytest.mark.parametrize(
    "told", ["[]", "{", '{"a": 3}', '{"a": "torch.nn"}', "[" * 100_000, '{"a": "torch.quint8"', "3"]
)
def test_odd_types_of_buffers_are_refused(told, folder):
    rewrite(folder, {TYPES: told})
    with pytest.raises(mipp.PlanMismatchError, match="types of buffers"):
        mipp.load(folder, image_network())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.uint8])
def test_weights_of_another_kind_of_type_are_refused(dtype, folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    rewrite(folder, **{name: torch.zeros_like(tensors[name], dtype=dtype)})
    with pytest.raises(mipp.PlanMismatchError, match=f"'{name}' is of type {dtype}"):
        mipp.load(folder, image_network())


@pytest.mark.parametrize("dtype", ["torch.quint8", "torch.int4", "torch.float4_e2m1fn_x2", "torch.complex64"])
def test_buffers_that_are_not_saved_take_no_odd_types(dtype, tmp_path):
    def network():
        made = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        made.register_buffer("told", torch.zeros(2), persistent=False)
        return made

    mipp.prune(network(), [torch.randn(20, 4)], mipp.Budget(nodes=0.5), progress=False).save(tmp_path / "run")
    rewrite(tmp_path / "run", {TYPES: json.dumps({"told": dtype})})
    with pytest.raises(mipp.PlanMismatchError, match=r"'told' is of type|types of buffers"):
        mipp.load(tmp_path / "run", network())


@pytest.mark.parametrize(
    "bias", [torch.zeros(3, dtype=torch.int32), torch.zeros(7), torch.zeros(3, 1), torch.zeros(())]
)
def test_a_bias_that_is_none_of_its_layer_is_refused(bias, tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False))
    data, options = [torch.randn(20, 4)], {"compensate": False, "progress": False}
    mipp.prune(model, data, mipp.Budget(), Keep({"0": (0, 1)}), **options).save(tmp_path / "run")
    rewrite(tmp_path / "run", **{"2.bias": bias})
    with pytest.raises(mipp.PlanMismatchError, match=r"'2\.bias'"):
        mipp.load(tmp_path / "run", model)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "", '{"model": ' + "1" * 5000 + "}", b"\xff"])
def test_a_damaged_report_is_refused(content, folder):
    (folder / "report.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(mipp.PlanMismatchError, match=r"report\.json cannot be read"):
        read_report(folder)


@pytest.mark.parametrize("field", ["params", "macs", "nodes"])
def test_an_infinite_size_in_a_report_is_refused(field, folder):
    report = json.loads((folder / "report.json").read_text())
    report["before"][field] = float("inf")
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(mipp.PlanMismatchError, match=f"before.{field} is inf"):
        read_report(folder)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "missing/page.html", "", 3])
def test_a_page_that_cannot_be_written_is_refused(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(mipp.MippError, match=r"path|cannot write"):
        read_report(folder).to_html(name)


def test_paths_that_no_disk_takes_are_refused_everywhere(folder):
    result = prune_images()
    for call in (
        result.save,
        lambda path: mipp.load(path, image_network()),
        mipp.load_plan,
        result.report.to_html,
        lambda path: prune_images(checkpoint=path),
    ):
        with pytest.raises(mipp.MippError, match="File name too long"):
            call("x" * 300)
