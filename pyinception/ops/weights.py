"""The twelve weights of GoogLeNet's module: names, order, shapes."""

from dataclasses import dataclass, fields
from typing import Any

from pyinception.dispatch import Array


@dataclass(frozen=True, eq=False)
class InceptionWeights:
    """The twelve arrays of one module, filters KRSC, biases (K,); letters as in the paper.

    w1, b1    1x1 convolution                      (K1, 1, 1, C)
    wr3, br3  1x1 reduction before the 3x3         (R3, 1, 1, C)
    w3, b3    3x3 convolution, padding 1           (K3, 3, 3, R3)
    wr5, br5  1x1 reduction before the 5x5         (R5, 1, 1, C)
    w5, b5    5x5 convolution, padding 2           (K5, 5, 5, R5), or (K5, 3, 3, R5)
    wp, bp    1x1 projection after the 3x3 pool    (Kp, 1, 1, C)
    """

    w1: Array
    b1: Array
    wr3: Array
    br3: Array
    w3: Array
    b3: Array
    wr5: Array
    br5: Array
    w5: Array
    b5: Array
    wp: Array
    bp: Array

    def __iter__(self) -> Any:
        return (getattr(self, field.name) for field in fields(self))


NAMES = tuple(field.name for field in fields(InceptionWeights))


def weight_shapes(channels: int, widths: Any, third: int = 5) -> tuple[tuple[int, ...], ...]:
    """The twelve shapes for C input channels and widths (1x1, r3, 3x3, r5, 5x5, proj).

    ``third`` is the extent of w5: 5, or 3 as in torchvision's network.
    """
    n1, r3, n3, r5, n5, proj = widths
    filters = (
        (n1, 1, 1, channels),
        (r3, 1, 1, channels),
        (n3, 3, 3, r3),
        (r5, 1, 1, channels),
        (n5, third, third, r5),
        (proj, 1, 1, channels),
    )
    return tuple(shape for f in filters for shape in (f, (f[0],)))
