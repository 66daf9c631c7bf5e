"""Networks by name, and the smallest one that has GoogLeNet's modules in it."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from pyinception import init
from pyinception.layers import (
    BatchNorm,
    ConvBatchNorm,
    Dropout,
    GlobalAvgPool,
    Inception,
    Linear,
    MaxPool2d,
)
from pyinception.models import SmallInception, googlenet, small_inception
from pyinception.models.small_inception import SmallModule
from pyinception.module import Module
from pyinception.tensor import Tensor
from pyinception.train.recipe import RecipeError


class TinyInception(Module):
    """conv 3x3 -> max pool -> two modules with reduces, batch norms -> mean -> dropout -> logits.

    x (N, H, W, C) -> (N, num_classes). About 30,000 parameters: what trains in seconds and still
    runs the fused 1x1 -> 3x3 and 1x1 -> 5x5 forward and backward.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(in_channels, 32, 3)
        self.pool1 = MaxPool2d(3, 2, ceil_mode=True)
        #                                1x1 r3x3 3x3 r5x5 5x5 proj
        self.inception_a = Inception(32, 16, 16, 32, 8, 16, 16)
        self.norm_a = BatchNorm(80)
        self.inception_b = Inception(80, 32, 24, 48, 8, 16, 16)
        self.norm_b = BatchNorm(112)
        self.pool2 = GlobalAvgPool()
        self.drop = Dropout(0.2)
        self.fc = Linear(112, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.conv1(x))
        x = self.norm_a(self.inception_a(x))
        x = self.norm_b(self.inception_b(x))
        return self.fc(self.drop(self.pool2(x)))


def tiny_inception(num_classes: int = 10, *, in_channels: int = 3, seed: int = 0) -> TinyInception:
    """`TinyInception` with xavier weights by ``seed``."""
    net = TinyInception(num_classes, in_channels)
    init.initialise(net, seed)
    return net


MODELS: dict[str, Callable[..., Module]] = {
    "small_inception": small_inception,
    "googlenet": googlenet,
    "tiny_inception": tiny_inception,
}

__all__ = ["MODELS", "SmallInception", "TinyInception", "branches", "build", "tiny_inception"]


def build(name: str, num_classes: int, shape: tuple[int, int, int], seed: int) -> Module:
    """The initialised network ``name`` for images of ``shape`` (H, W, C).

    Raises
    ------
    RecipeError
        For an unknown name, or images that the network cannot take.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise RecipeError(
            f"build: unknown model {name!r}, expected one of {', '.join(MODELS)}{hint}"
        )
    height, width, channels = shape
    if name == "googlenet" and (height, width) != (224, 224):
        text = f"googlenet takes images of 224 x 224, these have {height} x {width}"
        raise RecipeError(f"build: {text}")
    return MODELS[name](num_classes, in_channels=channels, seed=seed)


def branches(module: Module) -> list[tuple[str, slice]]:
    """(label, channels of the output) of each branch; empty for what is no module of branches."""
    if isinstance(module, SmallModule):
        widths = [("1x1", module.a), ("3x3", module.out_channels - module.a)]
    elif isinstance(module, Inception):
        last = ("conv1x1", "conv3x3", "conv5x5", "pool_proj")
        labels = ("1x1", "1x1 - 3x3", "1x1 - 5x5", "pool - 1x1")
        counts = [int(getattr(module, name).weight.shape[0]) for name in last]
        widths = list(zip(labels, counts, strict=True))
    else:
        return []
    found, start = [], 0
    for label, width in widths:
        found.append((label, slice(start, start + width)))
        start += width
    return found
