"""Convolution: y = [relu](conv(x, w) + b), and its gradients with the ReLU mask taken from y."""

from typing import Any

from pyinception import workspace
from pyinception.dispatch import Array, check, launch, wide
from pyinception.extents import padding_pair, pair
from pyinception.op import Op
from pyinception.spec import ConvSpec


def conv_spec(
    function: str, x: Array, w: Array, b: Array | None, stride: Any, padding: Any, relu: bool
) -> ConvSpec:
    """The spec that these arrays imply, every shape and dtype checked.

    x (N, H, W, C), w (K, R, S, C), b (K,) or None.
    """
    check(function, "x", x, "N H W C")
    check(function, "w", w, "K R S C", like=x)
    n, h, width, c = x.shape
    k, r, s, _ = w.shape
    check(function, "w", w, "K R S C", (k, r, s, c), like=x)
    if b is not None:
        check(function, "b", b, "K", (k,), like=x, dtype=wide(x))
    strides, paddings = pair(function, "stride", stride, 1), padding_pair(function, padding, (r, s))
    return ConvSpec(n, h, width, c, k, r, s, strides, paddings, relu, b is not None, function)


def conv_fprop(
    spec: ConvSpec, x: Array, w: Array, b: Array | None, out: Array | None = None, **how: Any
) -> Array:
    """y (N, P, Q, K) = [relu](conv(x, w) + b), written into ``out`` if given."""
    y = workspace.empty(spec.y_shape, x) if out is None else out
    launch("conv", "fprop", spec, x, w, b, y, **how)
    return y


def conv_dgrad(spec: ConvSpec, gy: Array, w: Array, y: Array | None, **how: Any) -> Array:
    """gx (N, H, W, C); with y, gy counts only where y > 0."""
    gx = workspace.empty(spec.x_shape, gy)
    launch("conv", "dgrad", spec, gy, w, y, gx, False, **how)
    return gx


def conv_wgrad(
    spec: ConvSpec, x: Array, gy: Array, y: Array | None, **how: Any
) -> tuple[Array, Array | None]:
    """gw (K, R, S, C) and gb (K,), the latter None where the spec has no bias."""
    gw = workspace.empty(spec.w_shape, x, wide(x))
    gb = workspace.empty((spec.K,), x, wide(x)) if spec.bias else None
    launch("conv", "wgrad", spec, x, gy, y, gw, gb, **how)
    return gw, gb


class Conv(Op):
    """y = [relu](conv(x, w) + b) as one step of the tape; ``out`` may be a slice of a wider map."""

    def __init__(
        self, stride: Any = 1, padding: Any = 0, relu: bool = False, out: Array | None = None
    ) -> None:
        self.stride, self.padding, self.relu, self.out = stride, padding, relu, out

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        self.spec = conv_spec("conv2d", x, w, b, self.stride, self.padding, self.relu)
        if self.out is not None:
            check("conv2d", "out", self.out, "N P Q K", self.spec.y_shape, like=x)
        y = conv_fprop(self.spec, x, w, b, self.out)
        if self.recording:
            self.saved = (x, w, y if self.relu else None)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        x, w, y = self.saved
        gx = conv_dgrad(self.spec, gy, w, y) if self.needs[0] else None
        if not any(self.needs[1:]):
            return gx, None, None
        gw, gb = conv_wgrad(self.spec, x, gy, y)
        return gx, gw, gb
