"""Xception and the separable 7x7 in torch, written from the paper's figure 5, in our names."""

from itertools import pairwise

from torch import nn
from torch.nn import functional as F


class Unit(nn.Module):
    """Separable convolution (or a plain one), batch norm."""

    def __init__(self, c, k, kernel, stride=1, padding=0, separable=False):
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False) if separable else None
        self.conv = nn.Conv2d(c, k, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(k, eps=0.001)

    def forward(self, x):
        return self.norm(self.conv(x if self.depthwise is None else self.depthwise(x)))


def separable(c, k):
    return Unit(c, k, 1, separable=True)


class Block(nn.Module):
    def __init__(self, widths, shortcut, first_relu=True):
        super().__init__()
        self.chain = nn.ModuleList(separable(c, k) for c, k in pairwise(widths))
        self.shortcut = Unit(widths[0], widths[-1], 1, 2) if shortcut else None
        self.first_relu = first_relu

    def forward(self, x):
        y = x
        for n, layer in enumerate(self.chain):
            y = layer(F.relu(y) if n or self.first_relu else y)
        if self.shortcut is None:
            return x + y
        return self.shortcut(x) + F.max_pool2d(y, 3, 2, 1)


class Xception(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.conv2 = Unit(3, 32, 3, 2), Unit(32, 64, 3)
        self.block2 = Block((64, 128, 128), True, first_relu=False)
        self.block3 = Block((128, 256, 256), True)
        self.block4 = Block((256, 728, 728), True)
        for i in range(5, 13):
            setattr(self, f"block{i}", Block((728, 728, 728, 728), False))
        self.block13 = Block((728, 728, 1024), True)
        self.block14a, self.block14b = separable(1024, 1536), separable(1536, 2048)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        for i in range(2, 14):
            x = getattr(self, f"block{i}")(x)
        x = F.relu(self.block14b(F.relu(self.block14a(x))))
        return self.fc(x.mean((2, 3)))


NORMS = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}


def own_name(key):
    """Our parameter's name for a name of `Xception`'s state; None for counters."""
    *path, last = key.split(".")
    if last == "num_batches_tracked":
        return None
    if path == ["fc"]:
        return key
    block = path[0]
    if path[-1] == "norm":
        last = NORMS[last]
    if "chain" in path:
        # Ours counts a leading ReLU as a layer of the chain.
        place = int(path[2]) + (block != "block2")
        parts = ["chain", str(place)] + (
            ["depthwise"] if path[-1] == "depthwise" else ["pointwise", path[-1]]
        )
    elif "shortcut" in path:
        parts = ["shortcut", path[-1]]
    elif block.startswith("block14"):
        parts = ["depthwise"] if path[-1] == "depthwise" else ["pointwise", path[-1]]
    else:
        parts = [path[-1]]
    return ".".join([block, *parts, last])


def as_ours(array):
    """KCRS as KRSC, anything else as it is."""
    return array.permute(0, 2, 3, 1).contiguous() if array.ndim == 4 else array
