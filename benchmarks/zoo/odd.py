"""One operator or layer each: other dimensions, norms, gates, shuffles, transposed and parametrized convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from benchmarks.zoo.registry import gauss, image, pattern


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(channels, 10)]


class Chomp1d(nn.Module):
    """Takes away what padding on the right let in from the future."""

    def __init__(self, chomp_size: int) -> None:
        super().__init__()
        self.chomp_size = chomp_size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.chomp_size].contiguous()


class TemporalBlock(nn.Module):
    """Two causal dilated convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, dilation: int, *, normed: bool) -> None:
        super().__init__()
        wrap = weight_norm if normed else nn.Identity()
        self.conv1 = wrap(nn.Conv1d(inputs, outputs, 3, padding=2 * dilation, dilation=dilation))
        self.conv2 = wrap(nn.Conv1d(outputs, outputs, 3, padding=2 * dilation, dilation=dilation))
        self.net = nn.Sequential(
            self.conv1, Chomp1d(2 * dilation), nn.ReLU(), nn.Dropout(0.2),
            self.conv2, Chomp1d(2 * dilation), nn.ReLU(), nn.Dropout(0.2),
        )  # fmt: skip
        self.downsample = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        res = x if self.downsample is None else self.downsample(x)
        return F.relu(self.net(x) + res)


class TCN(nn.Module):
    def __init__(self, *, normed: bool) -> None:
        super().__init__()
        self.tcn = nn.Sequential(TemporalBlock(4, 12, 1, normed=normed), TemporalBlock(12, 12, 2, normed=normed))
        self.linear = nn.Linear(12, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.tcn(inputs)[:, :, -1])


# conv2 of the second block and the downsample of the first belong to the stream
TCN_GROUPS = {"tcn.0.conv1": 12, "tcn.0.conv2": 12, "tcn.1.conv1": 12}


@pattern("Conv1d: TCN", gauss(4, 24), TCN_GROUPS)
def tcn() -> nn.Module:
    return TCN(normed=False)


@pattern("Parametrized: TCN with weight norm", gauss(4, 24), TCN_GROUPS)
def tcn_weight_norm() -> nn.Module:
    return TCN(normed=True)


@pattern("Parametrized: discriminator with spectral norm", image(3, 12), {"0": 8, "2": 12, "5": 16})
def spectral() -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.1),
        spectral_norm(nn.Conv2d(8, 12, 4, 2, 1)), nn.LeakyReLU(0.1), nn.Flatten(),
        spectral_norm(nn.Linear(12 * 9, 16)), nn.LeakyReLU(0.1), spectral_norm(nn.Linear(16, 1)),
    )  # fmt: skip


def conv2plus1d(inputs: int, outputs: int, mid: int) -> nn.Sequential:
    """A convolution over space, then one over time."""
    return nn.Sequential(
        nn.Conv3d(inputs, mid, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.BatchNorm3d(mid), nn.ReLU(inplace=True),
        nn.Conv3d(mid, outputs, (3, 1, 1), padding=(1, 0, 0), bias=False),
    )  # fmt: skip


class VideoBlock(nn.Module):
    def __init__(self, width: int, mid: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv2plus1d(width, width, mid), nn.BatchNorm3d(width), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(conv2plus1d(width, width, mid), nn.BatchNorm3d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + x)


@pattern(
    "Conv3d: R(2+1)D",
    gauss(3, 4, 8, 8),
    {"0.0": 6, "0.3": 8, "3.conv1.0.0": 12, "3.conv1.0.3": 8, "3.conv2.0.0": 12},
)
def video() -> nn.Module:
    return nn.Sequential(
        conv2plus1d(3, 8, 6), nn.BatchNorm3d(8), nn.MaxPool3d((1, 2, 2)), VideoBlock(8, 12),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(1), nn.Linear(8, 5),
    )  # fmt: skip


@pattern(
    "GroupNorm",
    image(3, 12),
    {
        "0": 4,  # 4 norm groups of 4: whole groups
        "3": 8,  # 2 norm groups of 8: the same position of both
        "6": 12,  # 12 norm groups of one channel
        "9": 8,  # one norm group
    },
)
def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1), nn.GroupNorm(12, 12), nn.SiLU(),
        nn.Conv2d(12, 8, 3, padding=1), nn.GroupNorm(1, 8), nn.SiLU(), *head(8),
    )  # fmt: skip


class PaddedConv(nn.Module):
    """Reflection instead of zeros at the border; perhaps after upsampling."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, upsample: int | None = None) -> None:
        super().__init__()
        self.upsample = upsample
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample:
            x = F.interpolate(x, mode="nearest", scale_factor=self.upsample)
        return self.conv2d(self.reflection_pad(x))


class StyleBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.in1 = PaddedConv(channels, channels, 3), nn.InstanceNorm2d(channels, affine=True)
        self.conv2, self.in2 = PaddedConv(channels, channels, 3), nn.InstanceNorm2d(channels, affine=True)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        out = self.relu(self.in1(self.conv1(x)))
        return self.in2(self.conv2(out)) + residual


@pattern(
    "InstanceNorm: style transfer",
    image(3, 12),
    {"0.conv2d": 8, "3.conv2d": 12, "6.conv1.conv2d": 12, "7.conv2d": 8},
)
def style_transfer() -> nn.Module:
    return nn.Sequential(
        PaddedConv(3, 8, 5), nn.InstanceNorm2d(8, affine=True), nn.ReLU(),
        PaddedConv(8, 12, 3, 2), nn.InstanceNorm2d(12, track_running_stats=True), nn.ReLU(), StyleBlock(12),
        PaddedConv(12, 8, 3, upsample=2), nn.InstanceNorm2d(8), nn.ReLU(), PaddedConv(8, 3, 5),
    )  # fmt: skip


class ResidualBody(nn.Module):
    """A block without norm whose result is scaled down (EDSR)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1)
        )
        self.res_scale = 0.1

    def forward(self, x: Tensor) -> Tensor:
        res = self.body(x).mul(self.res_scale)
        res += x
        return res


class EDSR(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(ResidualBody(width), nn.Conv2d(width, width, 3, padding=1))
        up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Sequential(up, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        res = self.body(x)
        res += x
        return self.tail(res)


@pattern(
    "PixelShuffle: EDSR",
    image(3, 8),
    {
        "head": 12,  # with the second convolution of the block and the last of the body
        "body.0.body.0": 12,
        "tail.0.0": 12,  # 4 consecutive channels become one
    },
)
def edsr() -> nn.Module:
    return EDSR(12)


@pattern("PixelUnshuffle", image(3, 12), {"0": 8, "3": 12})
def pixel_unshuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(32, 12, 3), nn.ReLU(), *head(12)
    )


class GatedConvs(nn.Module):
    """The idioms in which one half of the channels gates the other, and gates of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.glu = nn.Conv2d(3, 16, 3), nn.GLU(dim=1)
        self.conv2, self.conv3 = nn.Conv2d(8, 24, 3), nn.Conv2d(12, 20, 3)
        self.filter, self.gate = nn.Conv2d(10, 8, 1), nn.Conv2d(10, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.glu(self.conv1(x))
        x = F.glu(self.conv2(x), dim=1)
        value, gate = self.conv3(x).chunk(2, dim=1)
        x = F.silu(gate) * value
        x = torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
        return self.fc(x.mean(dim=(2, 3)))


@pattern("GLU: gated convolutions", image(3, 12), {"conv1": 8, "conv2": 12, "conv3": 10, "filter": 8})
def gated_convolutions() -> nn.Module:
    return GatedConvs()


@pattern("PReLU", image(3, 10), {"0": 8, "2": 12, "5": 16})
def prelu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.PReLU(8), nn.Conv2d(8, 12, 3), nn.PReLU(), nn.Flatten(),
        nn.Linear(12 * 4, 16), nn.PReLU(16), nn.Linear(16, 10),
    )  # fmt: skip


@pattern("SyncBatchNorm", image(3, 12), {"0": 8, "3": 12})
def sync_batch_norm() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), *head(12)
    )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


@pattern(
    "ConvTranspose2d, grouped",
    image(3, 6),
    {
        "0": 16,  # with the depthwise transposed convolution
        "3": 6,  # 2 groups of 6 inputs: the same position of both
        "5": 4,  # and of its 2 groups of 4 outputs
        "7": 6,  # 6 groups of 2 inputs: whole groups, with those of the layer that reads them
    },
)
def grouped_transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=16, bias=False),
        nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(12, 8, 2, 2, groups=2), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(12, 12, 3, padding=1, groups=6), nn.ReLU(),
        nn.Conv2d(12, 3, 1),
    )  # fmt: skip


class Generator(nn.Module):
    """A vector is projected to the first feature map, which transposed convolutions enlarge (DCGAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.project = nn.Linear(10, self.width * 4 * 4)
        self.main = nn.Sequential(
            nn.BatchNorm2d(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).view(-1, self.width, 4, 4)
        return self.main(x)


@pattern("ConvTranspose2d: DCGAN", gauss(10), {"project": 16, "main.2": 8})
def dcgan() -> nn.Module:
    return Generator()


@pattern("Depthwise convolution with a multiplier", image(3, 12), {"0": 8, "4": 12})
def depth_multiplier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8), nn.BatchNorm2d(16),
        nn.Conv2d(16, 12, 1), nn.ReLU(), *head(12),
    )  # fmt: skip


@pattern("ChannelShuffle", image(3, 10), {"0": 4, "4": 12})
def channel_shuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ChannelShuffle(4), nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 12, 1), nn.ReLU(), *head(12),
    )  # fmt: skip


class BlurPool(nn.Module):
    """A fixed low-pass filter before subsampling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = row[:, None] * row[None, :] / 16
        self.register_buffer("filt", kernel[None, None, :, :].repeat((channels, 1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


@pattern("BlurPool", image(3, 12), {"0": 8, "3": 12})
def blur_pool() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), BlurPool(8), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), BlurPool(12),
        *head(12),
    )  # fmt: skip
