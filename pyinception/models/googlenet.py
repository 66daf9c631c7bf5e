"""GoogLeNet (Inception v1): Szegedy et al., "Going deeper with convolutions", table 1.

As Caffe's bvlc_googlenet has it: LRN, ceil-mode pools, two auxiliary heads, dropouts; 6,998,552
parameters (13,378,280 with the heads) and 1,582,671,872 multiply-adds at 224x224.
"""

from collections.abc import Iterable
from typing import Any

from pyinception import init
from pyinception.extents import flag
from pyinception.layers import (
    AvgPool2d,
    Conv2d,
    Dropout,
    Inception,
    Linear,
    Lrn,
    MaxPool2d,
    SeparableConv2d,
)
from pyinception.models.rows import endpoints
from pyinception.module import Module
from pyinception.tensor import Tensor

# One row per layer; "conv" rows carry ReLU. Channels in follow from the row before.
TRUNK: tuple[tuple[Any, ...], ...] = (
    # name            kind        out  kernel stride pad            at 224x224: output
    ("conv1",         "conv",      64,  7,  2,  3),               # 112 x 112 x   64
    ("pool1",         "max",            3,  2),                   #  56 x  56 x   64
    ("norm1",         "lrn"),
    ("conv2_reduce",  "conv",      64,  1,  1,  0),
    ("conv2",         "conv",     192,  3,  1,  1),               #  56 x  56 x  192
    ("norm2",         "lrn"),
    ("pool2",         "max",            3,  2),                   #  28 x  28 x  192
    #                             1x1  r3x3  3x3 r5x5  5x5 proj
    ("inception_3a",  "inception",  64,  96, 128,  16,  32,  32),  #  28 x  28 x  256
    ("inception_3b",  "inception", 128, 128, 192,  32,  96,  64),  #  28 x  28 x  480
    ("pool3",         "max",            3,  2),                   #  14 x  14 x  480
    ("inception_4a",  "inception", 192,  96, 208,  16,  48,  64),  #  14 x  14 x  512, aux1
    ("inception_4b",  "inception", 160, 112, 224,  24,  64,  64),  #  14 x  14 x  512
    ("inception_4c",  "inception", 128, 128, 256,  24,  64,  64),  #  14 x  14 x  512
    ("inception_4d",  "inception", 112, 144, 288,  32,  64,  64),  #  14 x  14 x  528, aux2
    ("inception_4e",  "inception", 256, 160, 320,  32, 128, 128),  #  14 x  14 x  832
    ("pool4",         "max",            3,  2),                   #   7 x   7 x  832
    ("inception_5a",  "inception", 256, 160, 320,  32, 128, 128),  #   7 x   7 x  832
    ("inception_5b",  "inception", 384, 192, 384,  48, 128, 128),  #   7 x   7 x 1024
    ("pool5",         "avg",            7,  1),                   #   1 x   1 x 1024
    ("drop",          "dropout",  0.4),
)  # fmt: skip

# "3a" ... "5b": 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
WIDTHS: dict[str, tuple[int, ...]] = {
    name.removeprefix("inception_"): tuple(numbers)
    for name, kind, *numbers in TRUNK
    if kind == "inception"
}
STEM_MULTIPLIER = 8  # filters a colour of the separable stem
HEADS = {"inception_4a": "aux1", "inception_4d": "aux2"}


class AuxiliaryHead(Module):
    """A classifier on a middle map: average pool 5/3, 1x1 to 128, two linear layers, dropout 0.7.

    ``side`` is the map's side after the pool (4 for 14x14 maps).
    """

    def __init__(self, in_channels: int, side: int, num_classes: int) -> None:
        super().__init__()
        self.pool = AvgPool2d(5, 3)
        self.conv = Conv2d(in_channels, 128, 1, relu=True)
        self.fc1 = Linear(side * side * 128, 1024, relu=True, bias=0.2)
        self.drop = Dropout(0.7)
        self.fc2 = Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(self.drop(self.fc1(self.conv(self.pool(x)))))
        return logits


class GoogLeNet(Module):
    """x (N, 224, 224, 3) -> logits (N, num_classes); in training (logits, aux1, aux2)."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        aux: bool = True,
        separable_stem: bool = False,
    ) -> None:
        super().__init__()
        self.aux = aux
        c = in_channels
        for name, kind, *numbers in TRUNK:
            if kind == "conv":
                out, kernel, stride, padding = numbers
                layer: Module = Conv2d(c, out, kernel, stride, padding, relu=True)
                if separable_stem and name == "conv1":
                    pointwise = Conv2d(c * STEM_MULTIPLIER, out, 1, relu=True)
                    where = kernel, stride, padding
                    layer = SeparableConv2d(c, *where, pointwise, multiplier=STEM_MULTIPLIER)
                c = out
            elif kind == "inception":
                layer = Inception(c, *numbers)
                c = layer.out_channels
            elif kind == "max":
                layer = MaxPool2d(numbers[0], numbers[1], ceil_mode=True)
            elif kind == "avg":
                layer = AvgPool2d(*numbers)
            else:
                layer = Dropout(*numbers) if kind == "dropout" else Lrn()
            setattr(self, name, layer)
            if aux and name in HEADS:
                setattr(self, HEADS[name], AuxiliaryHead(c, 4, num_classes))
        self.fc = Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        auxiliary = []
        for name, *_ in TRUNK:
            x = getattr(self, name)(x)
            if self.training and self.aux and name in HEADS:
                auxiliary.append(getattr(self, HEADS[name])(x))
        logits = self.fc(x)
        return (logits, *auxiliary) if auxiliary else logits

    def endpoints(self, x: Any, names: Iterable[str]) -> dict[str, Tensor]:
        """The maps after the layers ``names`` of `TRUNK`, up to the last of them."""
        return endpoints(self, [name for name, *_ in TRUNK], x, names)


def googlenet(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    aux: bool = True,
    separable_stem: bool = False,
    seed: int = 0,
) -> GoogLeNet:
    """GoogLeNet with Caffe's initial weights (xavier, biases 0.2, classifiers' biases 0).

    Parameters
    ----------
    num_classes : outputs of each classifier.
    aux : whether to build the two auxiliary heads, which run in training only.
    separable_stem : conv1 as a depthwise 7x7 with 8 filters a colour, then 1x1 to 64. Table 1 has
        2.7K parameters and 34M operations for conv1, as this has (6,983,576 weights and
        1,498,677,248 multiply-adds in all) and a dense 7x7 has not; the text does not say so.
    seed : of the initial weights.
    """
    for argument, value in (("aux", aux), ("separable_stem", separable_stem)):
        flag("googlenet", argument, value)
    net = GoogLeNet(num_classes, in_channels, aux, separable_stem)
    init.initialise(net, seed)
    return net
