"""docs/yolo.md: the script goes from a trained detector to a smaller one that YOLO() loads, and to ONNX."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detection import make_images, mend_torchvision

import mipp

if importlib.util.find_spec("ultralytics") is None:  # imported later, since it needs torchvision
    pytest.skip("ultralytics is not installed", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # ultralytics warns of much
SCRIPT = Path(__file__).parents[2] / "examples/yolo.py"


def size(model):
    return sum(p.numel() for p in model.parameters())


def test_the_script_prunes_trains_loads_and_exports(monkeypatch, tmp_path, quick):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    mend_torchvision()
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    data = make_images(tmp_path / "data")
    common = {"data": str(data), "imgsz": 64, "workers": 0, "plots": False, "device": "cpu"}
    YOLO("yolo11n.yaml").train(**common, epochs=1, project=str(tmp_path / "runs"), name="dense")
    dense = str(tmp_path / "runs/dense/weights/best.pt")
    monkeypatch.setattr(sys, "argv", ["yolo.py", dense, str(data), "64", "1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    made = YOLO("runs/small/weights/best.pt")
    image = torch.rand(1, 3, 64, 64)
    graphs = [mipp.inspect(YOLO(dense).model, image), mipp.inspect(made.model, image)]
    assert graphs[1].macs <= 0.7 * graphs[0].macs
    assert made.names == {0: "dark", 1: "bright"}
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession("runs/small/weights/best.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), made.model.eval()(image)[0], rtol=1e-3, atol=1e-2)
    loaded = mipp.load("small", lambda: YOLO(dense).model)  # as pruned, before fine-tuning
    assert size(loaded) == size(made.model)
    again = YOLO(dense)
    again.model = loaded
    assert again.predict(str(next((tmp_path / "data/images").iterdir())), imgsz=64)[0].boxes is not None
