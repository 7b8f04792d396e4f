"""Segmentation and detection: U-Net, FPN, DeepLab, YOLO."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.registry import image, pattern


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, mid: int | None = None) -> None:
        super().__init__()
        mid = mid or outputs
        self.double_conv = nn.Sequential(
            nn.Conv2d(inputs, mid, 3, padding=1, bias=False), nn.BatchNorm2d(mid), nn.ReLU(inplace=True),
            nn.Conv2d(mid, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Upsamples, pads to the size of the skip, concatenates, convolves."""

    def __init__(self, inputs: int, outputs: int, *, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(inputs, outputs, inputs // 2)
        else:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, kernel_size=2, stride=2)
            self.conv = DoubleConv(inputs, outputs)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        x1 = self.up(x1)
        diff_y = x2.size()[2] - x1.size()[2]
        diff_x = x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class UNet(nn.Module):
    def __init__(self, *, bilinear: bool) -> None:
        super().__init__()
        factor = 2 if bilinear else 1
        self.inc = DoubleConv(3, 8)
        self.down1 = Down(8, 16)
        self.down2 = Down(16, 32 // factor)
        self.up1 = Up(32, 16 // factor, bilinear=bilinear)
        self.up2 = Up(16, 8, bilinear=bilinear)
        self.outc = nn.Conv2d(8, 3, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        return self.outc(self.up2(self.up1(x3, x2), x1))


@pattern(
    "U-Net, transposed convolutions",
    image(3, 18),
    {
        "inc.double_conv.0": 8, "inc.double_conv.3": 8,
        "down1.maxpool_conv.1.double_conv.0": 16, "down1.maxpool_conv.1.double_conv.3": 16,
        "down2.maxpool_conv.1.double_conv.0": 32, "down2.maxpool_conv.1.double_conv.3": 32,
        "up1.up": 16, "up1.conv.double_conv.0": 16, "up1.conv.double_conv.3": 16,
        "up2.up": 8, "up2.conv.double_conv.0": 8, "up2.conv.double_conv.3": 8,
    },
)  # fmt: skip
def unet() -> nn.Module:
    return UNet(bilinear=False)


@pattern(
    "U-Net, interpolation",
    image(3, 18),
    {
        "inc.double_conv.0": 8, "inc.double_conv.3": 8,
        "down1.maxpool_conv.1.double_conv.0": 16, "down1.maxpool_conv.1.double_conv.3": 16,
        "down2.maxpool_conv.1.double_conv.0": 16, "down2.maxpool_conv.1.double_conv.3": 16,
        "up1.conv.double_conv.0": 16, "up1.conv.double_conv.3": 8,
        "up2.conv.double_conv.0": 8, "up2.conv.double_conv.3": 8,
    },
)  # fmt: skip
def unet_bilinear() -> nn.Module:
    return UNet(bilinear=True)


class FeaturePyramid(nn.Module):
    """Lateral convolutions, a top-down path of additions, one output convolution per level."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in inputs)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(outputs, outputs, 3, padding=1) for _ in inputs)

    def forward(self, x: "OrderedDict[str, Tensor]") -> "OrderedDict[str, Tensor]":
        names, levels = list(x.keys()), list(x.values())
        last_inner = self.inner_blocks[-1](levels[-1])
        results = [self.layer_blocks[-1](last_inner)]
        for idx in range(len(levels) - 2, -1, -1):
            inner_lateral = self.inner_blocks[idx](levels[idx])
            feat_shape = inner_lateral.shape[-2:]
            last_inner = inner_lateral + F.interpolate(last_inner, size=feat_shape, mode="nearest")
            results.insert(0, self.layer_blocks[idx](last_inner))
        return OrderedDict(zip(names, results, strict=True))


class RetinaHead(nn.Module):
    """One head for all levels; boxes of all levels in one list."""

    def __init__(self, width: int, anchors: int, classes: int) -> None:
        super().__init__()
        self.num_classes = classes
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.cls_logits = nn.Conv2d(width, anchors * classes, 3, padding=1)

    def forward(self, x: list[Tensor]) -> Tensor:
        all_logits = []
        for features in x:
            logits = self.cls_logits(self.conv(features))
            n, _, h, w = logits.shape
            logits = logits.view(n, -1, self.num_classes, h, w).permute(0, 3, 4, 1, 2)
            all_logits.append(logits.reshape(n, -1, self.num_classes))
        return torch.cat(all_logits, dim=1)


class RetinaNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.layer2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.layer3 = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.fpn = FeaturePyramid((8, 12, 16), 16)
        self.head = RetinaHead(16, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        c1 = self.layer1(x)
        c2 = self.layer2(c1)
        c3 = self.layer3(c2)
        features = self.fpn(OrderedDict([("0", c1), ("1", c2), ("2", c3)]))
        return self.head(list(features.values()))


@pattern(
    "FPN with a shared head",
    image(3, 16),
    {
        "layer1.0": 8, "layer2.0": 12, "layer3.0": 16,
        "fpn.inner_blocks.0": 16,  # all levels are added to each other
        "fpn.layer_blocks.0": 16,  # all levels are read by the same convolution
        "head.conv.0": 16, "head.conv.2": 16,
    },
)  # fmt: skip
def fpn() -> nn.Module:
    return RetinaNet()


class ASPPPooling(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        for mod in self:
            x = mod(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def atrous(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class ASPP(nn.Module):
    """Parallel atrous convolutions and a pooled branch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        pointwise = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.convs = nn.ModuleList(
            [pointwise, atrous(inputs, outputs, 2), atrous(inputs, outputs, 4), ASPPPooling(inputs, outputs)]
        )
        self.project = nn.Sequential(
            nn.Conv2d(4 * outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class DeepLabV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 1, 2, dilation=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            ASPP(16, 8), nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 1)
        )
        self.aux_classifier = nn.Sequential(
            nn.Conv2d(16, 6, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(6, 4, 1)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        input_shape = x.shape[-2:]
        features = self.backbone(x)
        out = F.interpolate(self.classifier(features), size=input_shape, mode="bilinear", align_corners=False)
        aux = F.interpolate(self.aux_classifier(features), size=input_shape, mode="bilinear", align_corners=False)
        return OrderedDict([("out", out), ("aux", aux)])


@pattern(
    "DeepLabV3 with ASPP",
    image(3, 16),
    {
        "backbone.0": 8, "backbone.3": 16,
        "classifier.0.convs.0.0": 8, "classifier.0.convs.1.0": 8, "classifier.0.convs.2.0": 8,
        "classifier.0.convs.3.1": 8, "classifier.0.project.0": 8, "classifier.1": 12, "aux_classifier.0": 6,
    },
)  # fmt: skip
def deeplab() -> nn.Module:
    return DeepLabV3()


class Conv(nn.Module):
    """Convolution, batch norm, SiLU; one activation object for all."""

    default_act = nn.SiLU()

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = self.default_act if act is True else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class YoloBottleneck(nn.Module):
    def __init__(self, c1: int, c2: int, *, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2, 3, 1)
        self.cv2 = Conv(c2, c2, 3, 1)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Two halves; bottlenecks in series on the second; everything concatenated."""

    def __init__(self, c1: int, c2: int, n: int = 1, *, shortcut: bool = False) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1 = Conv(c1, 2 * self.c, 1, 1)
        self.cv2 = Conv((2 + n) * self.c, c2, 1)
        self.m = nn.ModuleList(YoloBottleneck(self.c, self.c, shortcut=shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C2fSplit(C2f):
    """The same by `split` with sizes that the module holds."""

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.c, self.c), 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C3(nn.Module):
    """Cross-stage partial block: two convolutions of the input, one of them through bottlenecks."""

    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        super().__init__()
        c_ = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, c_), Conv(c1, c_), Conv(2 * c_, c2)
        self.m = nn.Sequential(*(YoloBottleneck(c_, c_) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """One pool three times over, all results concatenated."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c1 // 2, 1, 1)
        self.cv2 = Conv(c1 // 2 * 4, c2, 1, 1)
        self.m = nn.MaxPool2d(kernel_size=k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Detect(nn.Module):
    """Boxes and classes of several levels."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.nl, self.nc, self.no = len(widths), classes, classes + 4
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(x, 8, 3), nn.Conv2d(8, 4, 1)) for x in widths)
        self.cv3 = nn.ModuleList(nn.Sequential(Conv(x, 6, 3), nn.Conv2d(6, self.nc, 1)) for x in widths)

    def forward(self, x: list[Tensor]) -> Tensor:
        shape = x[0].shape
        for i in range(self.nl):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        return torch.cat([xi.view(shape[0], self.no, -1) for xi in x], 2)


class Yolo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b0, self.b1 = Conv(3, 8, 3, 2), C2f(8, 16, shortcut=True)
        self.b2, self.b3 = Conv(16, 24, 3, 2), C2f(24, 24, 2, shortcut=True)
        self.sppf = SPPF(24, 24)
        self.upsample = nn.Upsample(None, 2, "nearest")
        self.n1, self.down, self.n2 = C2f(40, 16), Conv(16, 16, 3, 2), C2f(40, 24)
        self.detect = Detect((16, 24), 3)

    def forward(self, x: Tensor) -> Tensor:
        high = self.b1(self.b0(x))
        low = self.sppf(self.b3(self.b2(high)))
        p3 = self.n1(torch.cat([self.upsample(low), high], 1))
        p4 = self.n2(torch.cat([self.down(p3), low], 1))
        return self.detect([p3, p4])


@pattern(
    "YOLO with C2f blocks",
    image(3, 16),
    {
        "b0.conv": 8, "b2.conv": 24, "sppf.cv1.conv": 12, "sppf.cv2.conv": 24, "down.conv": 16,
        # position i of both chunks, and of every bottleneck that adds to the second
        "b1.cv1.conv": 8, "b1.m.0.cv1.conv": 8, "b1.cv2.conv": 16,
        "b3.cv1.conv": 12, "b3.m.0.cv1.conv": 12, "b3.m.1.cv1.conv": 12, "b3.cv2.conv": 24,
        "n1.cv1.conv": 8, "n1.m.0.cv1.conv": 8, "n1.m.0.cv2.conv": 8, "n1.cv2.conv": 16,
        "n2.cv1.conv": 12, "n2.m.0.cv1.conv": 12, "n2.m.0.cv2.conv": 12, "n2.cv2.conv": 24,
        "detect.cv2.0.0.conv": 8, "detect.cv2.1.0.conv": 8, "detect.cv3.0.0.conv": 6, "detect.cv3.1.0.conv": 6,
    },
)  # fmt: skip
def yolo() -> nn.Module:
    return Yolo()


@pattern(
    "CSP and C2f by split",
    image(3, 12),
    {
        "0.conv": 8,
        "1.cv1.conv": 8, "1.m.0.cv1.conv": 8, "1.cv2.conv": 8, "1.cv3.conv": 16,
        "2.cv1.conv": 6, "2.m.0.cv1.conv": 6, "2.m.0.cv2.conv": 6, "2.cv2.conv": 12,
    },
)  # fmt: skip
def csp() -> nn.Module:
    return nn.Sequential(
        Conv(3, 8, 3, 2), C3(8, 16), C2fSplit(16, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
    )
