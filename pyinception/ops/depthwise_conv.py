"""Depthwise convolution: y[k] = [relu](conv(x[k // M], w[k]) + b[k]), and its gradients.

M = K / C filters see each input channel; the ReLU mask of the gradients is taken from y.
"""

from typing import Any

from pyinception import workspace
from pyinception.dispatch import Array, check, launch, wide
from pyinception.extents import padding_pair, pair
from pyinception.op import Op
from pyinception.spec import DepthwiseConvSpec


def depthwise_conv_spec(
    function: str, x: Array, w: Array, b: Array | None, stride: Any, padding: Any, relu: bool
) -> DepthwiseConvSpec:
    """The spec that these arrays imply, every shape and dtype checked.

    x (N, H, W, C), w (K, R, S, 1), b (K,) or None.
    """
    check(function, "x", x, "N H W C")
    check(function, "w", w, "K R S 1", like=x)
    n, h, width, c = x.shape
    k, r, s, _ = w.shape
    check(function, "w", w, "K R S 1", (k, r, s, 1), like=x)
    if c and k % c:
        text = f"w has shape {tuple(w.shape)}, expected K to be a multiple of C = {c}"
        raise ValueError(f"{function}: {text}")
    if b is not None:
        check(function, "b", b, "K", (k,), like=x, dtype=wide(x))
    where = pair(function, "stride", stride, 1), padding_pair(function, padding, (r, s))
    return DepthwiseConvSpec(n, h, width, c, k, r, s, *where, relu, b is not None, function)


def depthwise_conv_fprop(
    spec: DepthwiseConvSpec, x: Array, w: Array, b: Array | None, out: Array | None = None,
    **how: Any,
) -> Array:  # fmt: skip
    """y (N, P, Q, K), written into ``out`` if given."""
    y = workspace.empty(spec.y_shape, x) if out is None else out
    launch("depthwise_conv", "fprop", spec, x, w, b, y, **how)
    return y


def depthwise_conv_dgrad(
    spec: DepthwiseConvSpec, gy: Array, w: Array, y: Array | None, **how: Any
) -> Array:
    """gx (N, H, W, C); with y, gy counts only where y > 0."""
    gx = workspace.empty(spec.x_shape, gy)
    launch("depthwise_conv", "dgrad", spec, gy, w, y, gx, False, **how)
    return gx


def depthwise_conv_wgrad(
    spec: DepthwiseConvSpec, x: Array, gy: Array, y: Array | None, **how: Any
) -> tuple[Array, Array | None]:
    """gw (K, R, S, 1) and gb (K,), the latter None where the spec has no bias."""
    gw = workspace.empty(spec.w_shape, x, wide(x))
    gb = workspace.empty((spec.K,), x, wide(x)) if spec.bias else None
    launch("depthwise_conv", "wgrad", spec, x, gy, y, gw, gb, **how)
    return gw, gb


class DepthwiseConv(Op):
    """Depthwise convolution as one step of the tape; ``out`` may be a slice of a wider map."""

    def __init__(
        self, stride: Any = 1, padding: Any = 0, relu: bool = False, out: Array | None = None
    ) -> None:
        self.stride, self.padding, self.relu, self.out = stride, padding, relu, out

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        where = self.stride, self.padding, self.relu
        self.spec = depthwise_conv_spec("depthwise_conv2d", x, w, b, *where)
        if self.out is not None:
            check("depthwise_conv2d", "out", self.out, "N P Q K", self.spec.y_shape, like=x)
        y = depthwise_conv_fprop(self.spec, x, w, b, self.out)
        if self.recording:
            self.saved = (x, w, y if self.relu else None)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        x, w, y = self.saved
        gx = depthwise_conv_dgrad(self.spec, gy, w, y) if self.needs[0] else None
        if not any(self.needs[1:]):
            return gx, None, None
        gw, gb = depthwise_conv_wgrad(self.spec, x, gy, y)
        return gx, gw, gb
