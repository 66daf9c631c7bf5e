"""GoogLeNet with batch normalisation: torchvision's variant, and BN-Inception of arXiv 1502.03167.

`googlenet_bn` is torchvision's googlenet: no LRN, a 3x3 where the paper has a 5x5, a 2x2 fourth
pool, convolutions without bias. `bn_inception` is figure 5 of "Batch Normalization": pairs of 3x3,
average pools, two modules that halve the map.
"""

from collections.abc import Callable
from typing import Any

from pyinception import init, ops
from pyinception.extents import flag
from pyinception.layers import Dropout, Linear
from pyinception.models.googlenet import WIDTHS
from pyinception.models.rows import Network, Unit, batch_norm_unit
from pyinception.module import Module
from pyinception.tensor import Tensor


def _four(module: str) -> str:
    n1, r3, n3, r5, n5, proj = WIDTHS[module]
    return f"1x1 {n1} | 1x1 {r3} > 3x3 {n3} | 1x1 {r5} > 3x3 {n5} | max 3x3 > 1x1 {proj}"


GOOGLENET_BN = (                                                # at 224 x 224: output
    ("conv1",        "7x7/2 64"),                               # 112 x 112 x   64
    ("pool1",        "max 3x3/2c"),                             #  56 x  56 x   64
    ("conv2",        "1x1 64"),                                 #  56 x  56 x   64
    ("conv3",        "3x3 192"),                                #  56 x  56 x  192
    ("pool2",        "max 3x3/2c"),                             #  28 x  28 x  192
    ("inception_3a", _four("3a")),                              #  28 x  28 x  256
    ("inception_3b", _four("3b")),                              #  28 x  28 x  480
    ("pool3",        "max 3x3/2c"),                             #  14 x  14 x  480
    ("inception_4a", _four("4a")),                              #  14 x  14 x  512, head
    ("inception_4b", _four("4b")),                              #  14 x  14 x  512
    ("inception_4c", _four("4c")),                              #  14 x  14 x  512
    ("inception_4d", _four("4d")),                              #  14 x  14 x  528, head
    ("inception_4e", _four("4e")),                              #  14 x  14 x  832
    ("pool4",        "max 2x2/2c"),                             #   7 x   7 x  832
    ("inception_5a", _four("5a")),                              #   7 x   7 x  832
    ("inception_5b", _four("5b")),                              #   7 x   7 x 1024
)  # fmt: skip


def _double(n1: int, r3: int, n3: int, rd: int, nd: int, proj: int, pool: str = "avg") -> str:
    return (
        f"1x1 {n1} | 1x1 {r3} > 3x3 {n3} | 1x1 {rd} > 3x3 {nd} > 3x3 {nd} | {pool} 3x3 > 1x1 {proj}"
    )


def _halving(r3: int, n3: int, rd: int, nd: int) -> str:
    return f"1x1 {r3} > 3x3/2 {n3} | 1x1 {rd} > 3x3 {nd} > 3x3/2 {nd} | max 3x3/2c"


def _bn_inception_rows(proj: int) -> tuple[tuple[str, str], ...]:
    """``proj`` of 4c and 4d: 128 as printed, or TF-slim's 96, with which the printed sums hold."""
    return (                                                        # at 224 x 224: output
        ("conv1",        "7x7/2 64"),                               # 112 x 112 x   64
        ("pool1",        "max 3x3/2c"),                             #  56 x  56 x   64
        ("conv2_reduce", "1x1 64"),                                 #  56 x  56 x   64
        ("conv2",        "3x3 192"),                                #  56 x  56 x  192
        ("pool2",        "max 3x3/2c"),                             #  28 x  28 x  192
        ("inception_3a", _double(64, 64, 64, 64, 96, 32)),          #  28 x  28 x  256
        ("inception_3b", _double(64, 64, 96, 64, 96, 64)),          #  28 x  28 x  320
        ("inception_3c", _halving(128, 160, 64, 96)),               #  14 x  14 x  576
        ("inception_4a", _double(224, 64, 96, 96, 128, 128)),       #  14 x  14 x  576
        ("inception_4b", _double(192, 96, 128, 96, 128, 128)),      #  14 x  14 x  576
        ("inception_4c", _double(160, 128, 160, 128, 160, proj)),   #  14 x  14 x  608
        ("inception_4d", _double(96, 128, 192, 160, 192, proj)),    #  14 x  14 x  608
        ("inception_4e", _halving(128, 192, 192, 256)),             #   7 x   7 x 1056
        ("inception_5a", _double(352, 192, 320, 160, 224, 128)),    #   7 x   7 x 1024
        ("inception_5b", _double(352, 192, 320, 192, 224, 128, "max")),  # 7 x 7 x 1024
    )  # fmt: skip


class _Head(Module):
    """torchvision's auxiliary classifier: mean to 4x4, 1x1 to 128, two linear layers."""

    def __init__(self, in_channels: int, num_classes: int, unit: Unit) -> None:
        super().__init__()
        self.conv = unit(in_channels, 128, 1, 1, 0, relu=True)
        self.fc1 = Linear(2048, 1024, relu=True)
        self.drop = Dropout(0.7)
        self.fc2 = Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(ops.AdaptiveAvgPool(4)(x))
        logits: Tensor = self.fc2(self.drop(self.fc1(x)))
        return logits


def googlenet_bn(
    num_classes: int = 1000, *, in_channels: int = 3, aux: bool = True, seed: int = 0
) -> Network:
    """torchvision's googlenet: 6,624,904 parameters (13,004,888 with heads), 1.498 G multiply-adds.

    Parameters
    ----------
    num_classes : outputs of each classifier.
    in_channels : of the images, 224x224 in the paper.
    aux : whether to build the two auxiliary heads, which run in training only.
    seed : of the initial weights.
    """
    flag("googlenet_bn", "aux", aux)
    unit = batch_norm_unit()
    heads: dict[str, Callable[[int], Any]] = {}
    if aux:
        heads = dict.fromkeys(
            ("inception_4a", "inception_4d"), lambda c: _Head(c, num_classes, unit)
        )
    net = Network(GOOGLENET_BN, num_classes, in_channels, unit, heads=heads, drop=0.2)
    init.initialise(net, seed)
    return net


def bn_inception(
    num_classes: int = 1000, *, in_channels: int = 3, slim: bool = False, seed: int = 0
) -> Network:
    """BN-Inception: 11,285,224 parameters, 2.033 G multiply-adds at 224x224.

    Parameters
    ----------
    slim : TF-slim's 96 channels after the pools of 4c and 4d instead of the printed 128:
        11,194,984 parameters, 2.019 G multiply-adds.
    num_classes, in_channels, seed : as in `googlenet_bn`.
    """
    unit = batch_norm_unit()
    net = Network(_bn_inception_rows(96 if slim else 128), num_classes, in_channels, unit)
    init.initialise(net, seed)
    return net
