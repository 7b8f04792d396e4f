"""Heads of detectors that turn features into boxes by anchors: those of a buffer, and points made while they run."""

import torch
from torch import Tensor, nn

from benchmarks.zoo.dense_prediction import C2f, Conv
from benchmarks.zoo.registry import image, pattern


class AnchorHead(nn.Module):
    """Boxes relative to anchors of three sizes on each level, which are a buffer (YOLOv5)."""

    stride = (2.0, 4.0)

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.nc, self.no, self.na = classes, classes + 5, 3
        self.register_buffer("anchors", torch.rand(len(widths), self.na, 2) * 4 + 1)
        self.m = nn.ModuleList(nn.Conv2d(x, self.no * self.na, 1) for x in widths)

    def forward(self, x: list[Tensor]) -> Tensor:
        boxes = []
        for i, level in enumerate(self.m):
            bs, _, ny, nx = x[i].shape
            y = level(x[i]).view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            grid, anchor_grid = self._make_grid(nx, ny, i, y)
            xy, wh, conf = y.sigmoid().split((2, 2, self.nc + 1), 4)
            xy = (xy * 2 + grid) * self.stride[i]
            wh = (wh * 2) ** 2 * anchor_grid
            boxes.append(torch.cat((xy, wh, conf), 4).view(bs, self.na * nx * ny, self.no))
        return torch.cat(boxes, 1)

    def _make_grid(self, nx: int, ny: int, i: int, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = 1, self.na, ny, nx, 2
        y, x = torch.arange(ny).type_as(like), torch.arange(nx).type_as(like)
        yv, xv = torch.meshgrid(y, x, indexing="ij")
        grid = torch.stack((xv, yv), 2).expand(shape) - 0.5
        anchor_grid = (self.anchors[i] * self.stride[i]).view((1, self.na, 1, 1, 2)).expand(shape)
        return grid, anchor_grid


class DFL(nn.Module):
    """The mean of a distribution over distances."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.conv, self.c1 = nn.Conv2d(c1, 1, 1, bias=False).requires_grad_(False), c1
        self.conv.weight.data[:] = torch.arange(c1, dtype=torch.float).view(1, c1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, a = x.shape
        return self.conv(x.view(b, 4, self.c1, a).transpose(2, 1).softmax(1)).view(b, 4, a)


class PointHead(nn.Module):
    """Distances from the centres of cells, which are made from the sizes of the levels (YOLOv8)."""

    stride = (2.0, 4.0)

    def __init__(self, widths: tuple[int, ...], classes: int, reg_max: int = 4) -> None:
        super().__init__()
        self.nc, self.reg_max, self.no = classes, reg_max, classes + 4 * reg_max
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(x, 8, 3), Conv(8, 8, 3), nn.Conv2d(8, 4 * reg_max, 1)) for x in widths
        )
        self.cv3 = nn.ModuleList(nn.Sequential(Conv(x, 6, 3), Conv(6, 6, 3), nn.Conv2d(6, classes, 1)) for x in widths)
        self.dfl = DFL(reg_max)

    def forward(self, x: list[Tensor]) -> Tensor:
        shape = x[0].shape
        for i in range(len(x)):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        anchors, strides = (t.transpose(0, 1) for t in self._make_anchors(x))
        box, cls = torch.cat([xi.view(shape[0], self.no, -1) for xi in x], 2).split((self.reg_max * 4, self.nc), 1)
        near, far = self.dfl(box).chunk(2, 1)
        x1y1, x2y2 = anchors.unsqueeze(0) - near, anchors.unsqueeze(0) + far
        boxes = torch.cat(((x1y1 + x2y2) / 2, x2y2 - x1y1), 1) * strides
        return torch.cat((boxes, cls.sigmoid()), 1)

    def _make_anchors(self, feats: list[Tensor]) -> tuple[Tensor, Tensor]:
        points, strides = [], []
        for feat, stride in zip(feats, self.stride, strict=True):
            _, _, h, w = feat.shape
            sx = torch.arange(end=w, device=feat.device, dtype=feat.dtype) + 0.5
            sy = torch.arange(end=h, device=feat.device, dtype=feat.dtype) + 0.5
            gy, gx = torch.meshgrid(sy, sx, indexing="ij")
            points.append(torch.stack((gx, gy), -1).view(-1, 2))
            strides.append(torch.full((h * w, 1), stride, dtype=feat.dtype, device=feat.device))
        return torch.cat(points), torch.cat(strides)


class Detector(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.b0, self.b1, self.b2, self.b3 = Conv(3, 8, 3, 2), C2f(8, 16), Conv(16, 24, 3, 2), C2f(24, 24)
        self.detect = head

    def forward(self, x: Tensor) -> Tensor:
        high = self.b1(self.b0(x))
        return self.detect([high, self.b3(self.b2(high))])


BACKBONE = {
    "b0.conv": 8, "b1.cv1.conv": 8, "b1.m.0.cv1.conv": 8, "b1.m.0.cv2.conv": 8, "b1.cv2.conv": 16,
    "b2.conv": 24, "b3.cv1.conv": 12, "b3.m.0.cv1.conv": 12, "b3.m.0.cv2.conv": 12, "b3.cv2.conv": 24,
}  # fmt: skip
BRANCHES = {
    f"detect.{branch}.{level}.{layer}.conv": nodes
    for branch, nodes in (("cv2", 8), ("cv3", 6))
    for level in (0, 1)
    for layer in (0, 1)
}


@pattern("YOLO head, anchors of a buffer", image(3, 16), BACKBONE)
def anchors() -> nn.Module:
    return Detector(AnchorHead((16, 24), 3))


@pattern("YOLO head, anchor points", image(3, 16), {**BACKBONE, **BRANCHES})
def points() -> nn.Module:
    return Detector(PointHead((16, 24), 3))
