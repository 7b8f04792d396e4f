"""Prune a YOLO, fine-tune it with its own trainer, load it back into YOLO() and export it to ONNX.

python examples/yolo.py best.pt data.yaml 640 20  # weights, data set, side, epochs; ultralytics is under AGPL-3.0
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import check_det_dataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules.block import C2f

import mipp

weights, data, side, epochs = *sys.argv[1:3], *map(int, sys.argv[3:5])
files = sorted(Path(check_det_dataset(data)["train"]).iterdir())[:256]
fitted = [LetterBox((side, side))(image=cv2.imread(str(file)))[..., ::-1] for file in files]  # BGR to RGB
images = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2) / 255
result = mipp.prune(YOLO(weights).model, images.split(16), mipp.Budget(macs=0.7, round_to=8))
print(result.report)
for block in result.model.modules():
    if isinstance(block, C2f):
        block.c = block.cv1.conv.out_channels // 2  # the size that their exporter splits by
result.save("small")  # before fine-tuning: mipp.load("small", lambda: YOLO(weights).model)


class Trainer(DetectionTrainer):
    def get_model(self, *_: object, **__: object) -> torch.nn.Module:
        return result.model  # YOLO.train would build the dense network from its yaml


settings = {"data": data, "epochs": epochs, "imgsz": side, "project": str(Path.cwd() / "runs"), "name": "small"}
YOLO(weights).train(trainer=Trainer, **settings)
small = YOLO("runs/small/weights/best.pt")
print(small.val(data=data, imgsz=side).results_dict, small.export(format="onnx", imgsz=side, simplify=False))
