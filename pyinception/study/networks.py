"""The networks that the studies compare: tables of rows around one small trunk.

    conv 3x3 -> max pool -> module a -> module b -> max pool -> module c -> mean -> logits

9.5 million multiply-adds for an image of 32x32: three modules with the proportions of GoogLeNet's,
batch norm after every convolution, small enough for several seeds on two cores. A study changes the
modules (or the heads) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyinception import init
from pyinception.layers import GlobalAvgPool, Linear
from pyinception.models.rows import Network, Unit, batch_norm_unit, plain_unit
from pyinception.module import Module
from pyinception.tensor import Tensor

Rows = tuple[tuple[str, str], ...]
UNITS: dict[str, Unit] = {"plain": plain_unit, "batch norm": batch_norm_unit()}
HEAD_AT, HEAD_WIDTH = "inception_b", 64


@dataclass(frozen=True)
class Variant:
    """One network of a study: rows as in `models.rows`, and the unit of its head, "" for none."""

    name: str
    rows: Rows
    head: str = ""


def trunk(a: str, b: str, c: str) -> Rows:
    """The common rows around three modules."""
    return (                                # at 32 x 32: output
        ("conv1",       "3x3 32"),          # 32 x 32
        ("pool1",       "max 3x3/2"),       # 16 x 16
        ("inception_a", a),                 # 16 x 16
        ("inception_b", b),                 # 16 x 16, the head
        ("pool2",       "max 3x3/2"),       #  8 x  8
        ("inception_c", c),                 #  8 x  8
    )  # fmt: skip


# module: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
WIDTHS = (16, 16, 32, 12, 12, 16), (24, 16, 32, 12, 12, 24), (32, 32, 64, 20, 20, 24)

REDUCED = "1x1 {0} | 1x1 {1} > 3x3 {2} | 1x1 {3} > 5x5 {4} | max 3x3 > 1x1 {5}"
NAIVE = "1x1 {0} | 3x3 {2} | 5x5 {4} | max 3x3"
PROJECTION_FIRST = "1x1 {0} | 1x1 {1} > 3x3 {2} | 1x1 {3} > 5x5 {4} | 1x1 {5} > max 3x3"
PAIRS = "1x1 {0} | 1x1 {1} > 3x3 {2} | 1x1 {3} > 3x3 {4} > 3x3 {4} | max 3x3 > 1x1 {5}"
ASYMMETRIC = "1x1 {0} | 1x1 {1} > 3x3 {2} | 1x1 {3} > 1x5 {4} > 5x1 {4} | max 3x3 > 1x1 {5}"

# Naive modules cut down until they cost what the reduced ones do, within 1 %.
NARROW = (7, 0, 14, 0, 5, 0), (10, 0, 14, 0, 5, 0), (14, 0, 27, 0, 9, 0)

# As deep as the modules, and within 1 % of their cost: two 3x3 convolutions for each.
ALL_3X3: Rows = (
    ("conv1",  "3x3 32"),
    ("pool1",  "max 3x3/2"),
    ("conv2",  "3x3 24"),
    ("conv3",  "3x3 24"),
    ("conv4",  "3x3 24"),
    ("conv5",  "3x3 24"),
    ("pool2",  "max 3x3/2"),
    ("conv6",  "3x3 60"),
    ("conv7",  "3x3 60"),
)  # fmt: skip


def modules(pattern: str, widths: tuple[tuple[int, ...], ...] = WIDTHS) -> Rows:
    """The trunk with one kind of module at its three places."""
    a, b, c = (pattern.format(*numbers) for numbers in widths)
    return trunk(a, b, c)


class _Head(Module):
    """1x1 to 64 and ReLU -> mean over the map -> logits."""

    def __init__(self, in_channels: int, num_classes: int, unit: Unit) -> None:
        super().__init__()
        self.conv = unit(in_channels, HEAD_WIDTH, 1, 1, 0, relu=True)
        self.pool = GlobalAvgPool()
        self.fc = Linear(HEAD_WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.conv(x)))
        return logits


def network(rows: Rows, head: str, num_classes: int, in_channels: int, seed: int) -> Network:
    """The initialised network of a variant."""
    heads: dict[str, Callable[[int], Module]] = {}
    if head:
        heads[HEAD_AT] = lambda c: _Head(c, num_classes, UNITS[head])
    net = Network(rows, num_classes, in_channels, batch_norm_unit(), heads=heads)
    init.initialise(net, seed)
    return net
