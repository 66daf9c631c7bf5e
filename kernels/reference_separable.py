"""The reference of depthwise convolution and of the residual sum; terms as in reference.py."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .windows import check, masked, over_pixels, rectified, require

Array = npt.NDArray[Any]
Maybe = Array | None
Pair = tuple[int, int]
Shape = Sequence[int]
_1, _0 = (1, 1), (0, 0)  # stride and padding unless given


def depthwise_conv2d_fprop(
    x: Array,
    w: Array,
    b: Maybe = None,
    *,
    stride: Pair = _1,
    padding: Pair = _0,
    relu: bool = False,
) -> Array:
    """y[n,p,q,k] = relu(b[k] + sum_rs w[k,r,s] x[n, p sh - ph + r, q sw - pw + s, k // M]).

    M = K / C filters see each input channel; P and relu as in conv2d_fprop.
    """
    windows = check(locals(), "depthwise_conv2d_fprop", "x NHWC, w KRS.1, b K?")
    framed = windows.framed(_multiplied("depthwise_conv2d_fprop", x, len(w)))
    y = np.zeros((len(x), *windows.output, len(w)), x.dtype)
    for r, s, where in windows.taps():
        y += framed[where] * w[:, r, s, 0]
    y = y if b is None else y + b
    return rectified(y) if relu else y


def depthwise_conv2d_dgrad(
    gy: Array, w: Array, x_shape: Shape, *, stride: Pair = _1, padding: Pair = _0, y: Maybe = None
) -> Array:
    """gx[n, p sh - ph + r, q sw - pw + s, k // M] += gy[n,p,q,k] w[k,r,s], for all p q r s k."""
    op = "depthwise_conv2d_dgrad"
    windows = check(locals(), op, "x_shape NHWC, w KRS.1, gy NPQK, y NPQK?")
    multiplier = _filters_a_channel(op, len(w), x_shape[3])
    gy = masked(gy, y)
    framed, gx = windows.frame(x_shape[0], len(w), gy.dtype)
    for r, s, where in windows.taps():
        framed[where] += gy * w[:, r, s, 0]
    return cast(Array, gx.reshape(*x_shape, multiplier).sum(axis=4))


def depthwise_conv2d_wgrad(
    x: Array, gy: Array, w_shape: Shape, *, stride: Pair = _1, padding: Pair = _0, y: Maybe = None
) -> tuple[Array, Array]:
    """gw[k,r,s] = sum_npq gy[n,p,q,k] x[n, p sh - ph + r, ..., k // M]; gb = sum_npq gy."""
    op = "depthwise_conv2d_wgrad"
    windows = check(locals(), op, "x NHWC, w_shape KRS.1, gy NPQK, y NPQK?")
    gy = masked(gy, y)
    framed = windows.framed(_multiplied(op, x, w_shape[0]))
    gw = np.empty(tuple(w_shape), x.dtype)
    for r, s, where in windows.taps():
        gw[:, r, s, 0] = over_pixels(gy * framed[where])
    return gw, over_pixels(gy)


def _filters_a_channel(op: str, K: int, C: int) -> int:
    require(K % C == 0, f"{op}: w has K = {K}, expected a multiple of C = {C}")
    return K // C


def _multiplied(op: str, x: Array, K: int) -> Array:
    """Each channel of x as often as filters see it."""
    return np.repeat(x, _filters_a_channel(op, K, x.shape[3]), axis=3)


def add_scaled_fprop(a: Array, b: Maybe, *, scale: float, relu: bool) -> Array:
    """y = relu(a + scale b), relu only where asked for; without b, y = relu(a)."""
    check(locals(), "add_scaled_fprop", "a N*, b N*?")
    y = a if b is None else a + a.dtype.type(scale) * b
    return rectified(y) if relu or b is None else y


def add_scaled_dgrad(gy: Array, *, scale: float, y: Maybe = None) -> tuple[Array, Array]:
    """ga = gy where y > 0 (everywhere without y), gb = scale ga."""
    check(locals(), "add_scaled_dgrad", "gy N*, y N*?")
    ga = masked(gy, y)
    return ga, ga.dtype.type(scale) * ga
