"""Specs of depthwise convolution and of the residual sum; conventions as in `spec`."""

from dataclasses import dataclass
from math import prod

from pyinception.extents import (
    FLOAT_BYTES,
    Map,
    Pair,
    Same,
    Shape,
    caller,
    extents,
    flags,
    integer,
    numbers,
    window,
)


@dataclass(frozen=True)
class DepthwiseConvSpec(Map):
    """y[k] = [relu](conv(x[k // M], w[k]) + b[k]): M = K / C filters see each input channel."""

    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    relu: bool = False
    bias: bool = True
    function: str = caller("DepthwiseConvSpec")

    def __post_init__(self) -> None:
        extents(self, "N H W C K R S")
        flags(self, "relu")
        window(self, self.kernel)
        if self.K % self.C:
            text = f"K is {self.K}, expected a multiple of C = {self.C}"
            raise ValueError(f"{self.function}: {text}")

    @property
    def kernel(self) -> Pair:
        return self.R, self.S

    @property
    def P(self) -> int:
        return (self.H + 2 * self.padding[0] - self.R) // self.stride[0] + 1

    @property
    def Q(self) -> int:
        return (self.W + 2 * self.padding[1] - self.S) // self.stride[1] + 1

    @property
    def w_shape(self) -> Shape:
        return self.K, self.R, self.S, 1

    @property
    def y_shape(self) -> Shape:
        return self.N, self.P, self.Q, self.K

    @property
    def macs(self) -> int:
        return prod(self.y_shape) * self.R * self.S

    @property
    def bytes(self) -> int:
        weights = numbers(self.w_shape) + self.K * self.bias
        return super().bytes + FLOAT_BYTES * weights


@dataclass(frozen=True)
class AddScaledSpec(Same):
    """y = [relu](a + scale b) over arrays of ``shape``; without b, y = relu(a)."""

    shape: tuple[int, ...]
    scale: float = 1.0
    relu: bool = False
    function: str = caller("AddScaledSpec")

    def __post_init__(self) -> None:
        for axis, extent in enumerate(self.shape):
            integer(self.function, f"extent {axis}", extent, 0)
        flags(self, "relu")
