"""Pooling: y = maximum or mean over windows clipped to the image.

Extents follow floor((H + 2p - k) / s) + 1, or in ceil mode Caffe's ceil(...) + 1 without a last
window that would start at or beyond H + p (pooling_layer.cpp). The first maximum in row-major
order wins, and a NaN wins over every number.
"""

from typing import Any

import numpy as np

from pyinception import workspace
from pyinception.dispatch import Array, check, launch
from pyinception.extents import padding_pair, pair
from pyinception.op import Op
from pyinception.spec import PoolSpec


def pool_spec(
    function: str,
    kind: str,
    x_shape: Any,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> PoolSpec:
    """The spec of one pooling; ``stride`` None means the kernel's own extents."""
    if len(x_shape) != 4:
        text = f"x has shape {tuple(x_shape)}, expected (N, H, W, C)"
        raise ValueError(f"{function}: {text}")
    size = pair(function, "kernel_size", kernel, 1)
    step = size if stride is None else pair(function, "stride", stride, 1)
    pads = padding_pair(function, padding, size)
    n, h, w, c = x_shape
    modes = ceil_mode, count_include_pad
    return PoolSpec(kind, n, h, w, c, size, step, pads, *modes, function)


def check_argmax(function: str, argmax: Array, spec: PoolSpec, gy: Array) -> None:
    """Raise unless ``argmax`` is uint8 of the output's shape and names taps of the window."""
    check(function, "argmax", argmax, "N P Q C", spec.y_shape, gy, np.uint8)
    taps = spec.kernel[0] * spec.kernel[1]
    if argmax.size and int(argmax.max()) >= taps:
        raise ValueError(f"{function}: argmax has {int(argmax.max())}, expected 0 ... {taps - 1}")


def max_pool_fprop(
    spec: PoolSpec, x: Array, *, save: bool, out: Array | None = None, **how: Any
) -> tuple[Array, Array | None]:
    """(y, argmax): argmax (N, P, Q, C) uint8, the winning tap r S + s, if ``save``."""
    y = workspace.empty(spec.y_shape, x) if out is None else out
    argmax = workspace.empty(spec.y_shape, x, np.uint8) if save else None
    launch("max_pool", "fprop", spec, x, y, argmax, **how)
    return y, argmax


def max_pool_dgrad(spec: PoolSpec, gy: Array, argmax: Array, **how: Any) -> Array:
    """gx: each pixel gathers the gy of the windows it won."""
    gx = workspace.empty(spec.x_shape, gy)
    launch("max_pool", "dgrad", spec, gy, argmax, gx, **how)
    return gx


def avg_pool_fprop(spec: PoolSpec, x: Array, out: Array | None = None, **how: Any) -> Array:
    """y = window sum / cells; cells counts padding up to H + p if ``count_include_pad``."""
    y = workspace.empty(spec.y_shape, x) if out is None else out
    launch("avg_pool", "fprop", spec, x, y, **how)
    return y


def avg_pool_dgrad(spec: PoolSpec, gy: Array, **how: Any) -> Array:
    """gx = sum of gy / cells over the windows that hold the pixel."""
    gx = workspace.empty(spec.x_shape, gy)
    launch("avg_pool", "dgrad", spec, gy, gx, **how)
    return gx


class Pool(Op):
    """Max or average pooling as one step of the tape; arguments as in `pool_spec`."""

    def __init__(self, kind: str, *window: Any, out: Array | None = None) -> None:
        self.kind, self.window, self.out = kind, window, out

    def forward(self, x: Array) -> Array:
        function = f"{self.kind}_pool2d"
        check(function, "x", x, "N H W C")
        self.spec = pool_spec(function, self.kind, x.shape, *self.window)
        if self.out is not None:
            check(function, "out", self.out, "N P Q C", self.spec.y_shape, like=x)
        if self.kind == "avg":
            return avg_pool_fprop(self.spec, x, self.out)
        y, argmax = max_pool_fprop(self.spec, x, save=self.recording, out=self.out)
        self.saved = (argmax,)
        return y

    def backward(self, gy: Array) -> Array:
        if self.kind == "avg":
            return avg_pool_dgrad(self.spec, gy)
        return max_pool_dgrad(self.spec, gy, *self.saved)
