"""The small Inception of Zhang et al., arXiv 1611.03530, figure 3 (MXNet's inception-bn-28-small).

Inc(a, b) = [1x1 a | 3x3 b]; Down(b) = [3x3/2 b | max 3x3/2]; every convolution is conv + batch norm
+ ReLU. 1,649,402 parameters with conv biases and without those of the batch norms.
"""

from collections.abc import Iterable
from typing import Any

from pyinception import init, workspace
from pyinception.backend import Array
from pyinception.layers import ConvBatchNorm, GlobalAvgPool, Linear, MaxPool2d
from pyinception.models.rows import endpoints
from pyinception.module import Module
from pyinception.ops import concat
from pyinception.tensor import Tensor

# name, kind, numbers                at 28x28: output
BODY: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("inc1a", (32, 32)),           # 28 x 28 x  64
    ("inc1b", (32, 48)),           # 28 x 28 x  80
    ("down1", (80,)),              # 14 x 14 x 160
    ("inc2a", (112, 48)),          # 14 x 14 x 160
    ("inc2b", (96, 64)),           # 14 x 14 x 160
    ("inc2c", (80, 80)),           # 14 x 14 x 160
    ("inc2d", (48, 96)),           # 14 x 14 x 144
    ("down2", (96,)),              #  7 x  7 x 240
    ("inc3a", (176, 160)),         #  7 x  7 x 336
    ("inc3b", (176, 160)),         #  7 x  7 x 336
)  # fmt: skip


class SmallModule(Module):
    """y = [1x1 a | 3x3 b], each half written into its own channels of y."""

    def __init__(self, in_channels: int, a: int, b: int) -> None:
        super().__init__()
        self.conv1x1 = ConvBatchNorm(in_channels, a, 1)
        self.conv3x3 = ConvBatchNorm(in_channels, b, 3)
        self.a, self.out_channels = a, a + b

    def forward(self, x: Tensor) -> Tensor:
        y = _output(x, self.out_channels, 1)
        left = self.conv1x1(x, out=y[..., : self.a])
        right = self.conv3x3(x, out=y[..., self.a :])
        return concat([left, right], out=y)


class DownModule(Module):
    """y = [3x3/2 b | max 3x3/2], each half written into its own channels of y."""

    def __init__(self, in_channels: int, b: int) -> None:
        super().__init__()
        self.conv3x3 = ConvBatchNorm(in_channels, b, 3, stride=2)
        self.pool = MaxPool2d(3, 2, padding=1)
        self.b, self.out_channels = b, b + in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = _output(x, self.out_channels, 2)
        left = self.conv3x3(x, out=y[..., : self.b])
        right = self.pool(x, out=y[..., self.b :])
        return concat([left, right], out=y)


def _output(x: Tensor, channels: int, stride: int) -> Array:
    n, h, w, _ = x.shape
    return workspace.empty((n, -(-h // stride), -(-w // stride), channels), x.data)


class SmallInception(Module):
    """x (N, H, W, C), usually 28x28 or 32x32 -> logits (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(in_channels, 96, 3)
        c = 96
        for name, widths in BODY:
            kind = SmallModule if len(widths) == 2 else DownModule
            layer = kind(c, *widths)
            setattr(self, name, layer)
            c = layer.out_channels
        self.pool = GlobalAvgPool()
        self.fc = Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name, _ in BODY:
            x = getattr(self, name)(x)
        logits: Tensor = self.fc(self.pool(x))
        return logits

    def endpoints(self, x: Any, names: Iterable[str]) -> dict[str, Tensor]:
        """The maps after conv1 and the modules ``names``, up to the last of them."""
        return endpoints(self, ["conv1", *(name for name, _ in BODY)], x, names)


def small_inception(
    num_classes: int = 10, *, in_channels: int = 3, seed: int = 0
) -> SmallInception:
    """The small Inception with xavier weights by ``seed``; any input of at least 1x1 pixels.

    Parameters
    ----------
    num_classes : outputs.
    in_channels : of the images, 3 for colour, 1 for grey.
    """
    net = SmallInception(num_classes, in_channels)
    init.initialise(net, seed)
    return net
