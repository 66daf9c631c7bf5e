"""Inception-v2 and v3 of Szegedy et al., "Rethinking the Inception Architecture", arXiv 1512.00567.

v3 has the channels of the released networks (torchvision, TF-slim and Keras agree), which differ
from the paper's table 1: the stem's 1x1, 192 channels into the first module, a real 5x5 in the
35x35 modules. v2 is that network as table 1 prints it: 3x3 stem, pairs of 3x3 in place of the 5x5;
the widths the paper leaves open are v3's. An n x m stage is n rows by m columns.
"""

from collections.abc import Callable

from pyinception import init
from pyinception.extents import flag
from pyinception.layers import AvgPool2d, GlobalAvgPool, Linear
from pyinception.models.rows import Network, batch_norm_unit
from pyinception.module import Module
from pyinception.tensor import Tensor


def _a(middle: str, pool: int) -> str:
    return f"1x1 64 | {middle} | 1x1 64 > 3x3 96 > 3x3 96 | avg 3x3 > 1x1 {pool}"


def _c(c: int) -> str:
    return (
        f"1x1 192 | 1x1 {c} > 1x7 {c} > 7x1 192"
        f" | 1x1 {c} > 7x1 {c} > 1x7 {c} > 7x1 {c} > 1x7 192 | avg 3x3 > 1x1 192"
    )


REDUCTION_B = "3x3/2v 384 | 1x1 64 > 3x3 96 > 3x3/2v 96 | max 3x3/2v"
REDUCTION_D = "1x1 192 > 3x3/2v 320 | 1x1 192 > 1x7 192 > 7x1 192 > 3x3/2v 192 | max 3x3/2v"
E = (
    "1x1 320 | 1x1 384 > 1x3 384 & 3x1 384"
    " | 1x1 448 > 3x3 384 > 1x3 384 & 3x1 384 | avg 3x3 > 1x1 192"
)

STEM = (                             # at 299 x 299: output
    ("conv1a", "3x3/2v 32"),         # 149 x 149 x   32
    ("conv2a", "3x3v 32"),           # 147 x 147 x   32
    ("conv2b", "3x3 64"),            # 147 x 147 x   64
    ("pool1",  "max 3x3/2v"),        #  73 x  73 x   64
    ("conv3b", "1x1 80"),            #  73 x  73 x   80
    ("conv4a", "3x3v 192"),          #  71 x  71 x  192
    ("pool2",  "max 3x3/2v"),        #  35 x  35 x  192
)  # fmt: skip

TAIL = (
    ("mixed_6a", REDUCTION_B),       #  17 x  17 x  768
    ("mixed_6b", _c(128)),           #  17 x  17 x  768
    ("mixed_6c", _c(160)),           #  17 x  17 x  768
    ("mixed_6d", _c(160)),           #  17 x  17 x  768
    ("mixed_6e", _c(192)),           #  17 x  17 x  768, auxiliary head
    ("mixed_7a", REDUCTION_D),       #   8 x   8 x 1280
    ("mixed_7b", E),                 #   8 x   8 x 2048
    ("mixed_7c", E),                 #   8 x   8 x 2048
)  # fmt: skip

V3 = (
    *STEM,
    ("mixed_5b", _a("1x1 48 > 5x5 64", 32)),  #  35 x  35 x  256
    ("mixed_5c", _a("1x1 48 > 5x5 64", 64)),  #  35 x  35 x  288
    ("mixed_5d", _a("1x1 48 > 5x5 64", 64)),  #  35 x  35 x  288
    *TAIL,
)

_PAIR = "1x1 64 > 3x3 64"  # figure 5: the 5x5 is a chain of two 3x3, beside one 3x3
V2 = (                               # at 299 x 299: output
    *STEM[:4],                       #  73 x  73 x   64
    ("conv3a", "3x3v 80"),           #  71 x  71 x   80
    ("conv4a", "3x3/2v 192"),        #  35 x  35 x  192
    ("conv4b", "3x3 288"),           #  35 x  35 x  288
    ("mixed_5b", _a(_PAIR, 64)),     #  35 x  35 x  288
    ("mixed_5c", _a(_PAIR, 64)),     #  35 x  35 x  288
    ("mixed_5d", _a(_PAIR, 64)),     #  35 x  35 x  288
    *TAIL,
)  # fmt: skip


class _Head(Module):
    """The auxiliary classifier on 17x17 maps, batch norm on both convolutions."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        unit = batch_norm_unit()
        self.pool = AvgPool2d(5, 3)
        self.conv0 = unit(in_channels, 128, 1, 1, 0, relu=True)
        self.conv1 = unit(128, 768, 5, 1, 0, relu=True)
        self.mean = GlobalAvgPool()
        self.fc = Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.mean(self.conv1(self.conv0(self.pool(x)))))
        return logits


def _network(
    rows: tuple[tuple[str, str], ...], n: int, c: int, aux: bool, include_pad: bool, seed: int
) -> Network:
    heads: dict[str, Callable[[int], Module]] = {}
    if aux:
        heads["mixed_6e"] = lambda channels: _Head(channels, n)
    unit = batch_norm_unit()
    net = Network(rows, n, c, unit, heads=heads, drop=0.5, include_pad=include_pad)
    init.initialise(net, seed)
    return net


def inception_v3(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    aux: bool = True,
    include_pad: bool = True,
    seed: int = 0,
) -> Network:
    """Inception-v3: 23,834,568 parameters (27,161,264 with the head), 5.713 G multiply-adds.

    Parameters
    ----------
    num_classes : outputs of each classifier.
    in_channels : of the images, 299x299 in the paper; at least 75x75.
    aux : whether to build the auxiliary head, which runs in training only.
    include_pad : whether the modules' average pools count the padding as cells (torchvision) or
        leave it out (TF-slim, Keras).
    seed : of the initial weights.
    """
    flag("inception_v3", "aux", aux)
    return _network(V3, num_classes, in_channels, aux, include_pad, seed)


def inception_v2(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    aux: bool = True,
    include_pad: bool = True,
    seed: int = 0,
) -> Network:
    """Inception-v2 as table 1 of the paper prints it; arguments as in `inception_v3`."""
    flag("inception_v2", "aux", aux)
    return _network(V2, num_classes, in_channels, aux, include_pad, seed)
