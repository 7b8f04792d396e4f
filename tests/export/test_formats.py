"""An exported file computes what the model computes, or is not left there."""

import copy
import sys

import pytest
import torch
from cases import Net, named, outputs, pruned
from torch import nn

import mipp
from mipp.export import export


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("name", ["residual", "several inputs", "concatenation"])
def test_torch_export_of_a_pruned_model(name, samples, tmp_path):
    case = named(name)
    model = pruned(case).model
    x = case.batch(samples)
    assert export(model, x, tmp_path / "small.pt2") <= 1e-6
    program = torch.export.load(tmp_path / "small.pt2").module()
    more = case.batch(7, seed=3)
    torch.testing.assert_close(outputs(program, more), outputs(model, more))
    assert [p.name for p in tmp_path.iterdir()] == ["small.pt2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv bn relu chain", "residual"])
def test_onnx_of_a_pruned_model(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    case = named(name)
    model = copy.deepcopy(pruned(case).model).float()  # what `pruned` returns is shared
    assert export(model, case.batch(4).float(), tmp_path / "small.onnx") <= 1e-4
    session = runtime.InferenceSession(tmp_path / "small.onnx")
    x = case.batch(7, seed=3).float()
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), outputs(model, x)[0], rtol=1e-4, atol=1e-4)


def test_what_takes_one_sample_only_is_exported_for_one(tmp_path):
    model = Net(lambda m, x: m.a(x.view(1, 3)), a=nn.Linear(3, 2))
    assert export(model, torch.randn(1, 3), tmp_path / "one.pt2") <= 1e-6


def test_a_file_that_computes_something_else_is_not_left_there(tmp_path, monkeypatch):
    monkeypatch.setattr("mipp.export.formats._torch", lambda model, call, path, dynamic: [2 * call(model).detach()])
    with pytest.raises(mipp.MippError, match="differs from the model by 1"):
        export(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "wrong.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told(tmp_path):
    model = Net(lambda m, x: m.a(x) if x.sum() > 0 else x, a=nn.Linear(3, 3))
    with pytest.raises(mipp.MippError, match="branches on values"):
        export(model, torch.randn(4, 3), tmp_path / "branch.pt2")
    with pytest.raises(mipp.MippError, match=r"\.onnx or \.pt2"):
        export(model, torch.randn(4, 3), tmp_path / "model.pth")
    (tmp_path / "there.pt2").write_text("mine")
    with pytest.raises(mipp.MippError, match="exists already"):
        export(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "there.pt2")
    assert (tmp_path / "there.pt2").read_text() == "mine"


def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(mipp.MissingRequirementError, match=r'pip install "torch-mipp\[export\]"'):
        export(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "model.onnx")


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_samples_and_length_may_change(suffix, tmp_path):
    llamas = pytest.importorskip("llamas")
    if suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime")
    model = mipp.prune(llamas.llama(use_cache=False), [llamas.ids(8)], mipp.Budget(params=0.8), progress=False).model
    path = tmp_path / f"model{suffix}"
    export(model, llamas.ids(2), path, dynamic=(0, 1))
    tokens = torch.randint(50, (3, 11), generator=torch.Generator().manual_seed(2))
    if suffix == ".onnx":
        (found,) = runtime.InferenceSession(path).run(None, {"input_ids": tokens.numpy()})
        found = torch.from_numpy(found)
    else:
        found = torch.export.load(path).module()(input_ids=tokens).logits
    torch.testing.assert_close(found, model.eval()(tokens).logits.detach(), rtol=1e-3, atol=1e-4)


def test_a_decoder_is_exported_without_its_cache(tmp_path):
    llamas = pytest.importorskip("llamas")
    model = llamas.llama().eval()
    assert model.config.use_cache
    assert export(model, llamas.ids(2), tmp_path / "model.pt2") < 1e-3
    assert model.config.use_cache
    found = torch.export.load(tmp_path / "model.pt2").module()(**llamas.ids(2))
    torch.testing.assert_close(found.logits, model(**llamas.ids(2)).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic", [3, "ab", b"a", (-2,), (5,), (0, 2), (0.5,), (True,), (None,), {0: 1}, (2**63,)])
def test_dynamic_dimensions_are_those_of_the_inputs(dynamic, tmp_path):
    with pytest.raises(mipp.MippError, match=r"^dynamic=.*counted from 0, such as \(0, 1\); here they are below 2"):
        export(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "model.pt2", dynamic)
    assert list(tmp_path.iterdir()) == []


def test_a_dimension_that_cannot_change_is_told(tmp_path):
    with pytest.raises(mipp.MippError, match="dimensions that may change"):
        export(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "fixed.pt2", dynamic=(0, 1))
