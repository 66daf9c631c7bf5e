"""The fused branch: r = relu(conv1x1(x, wr) + br), y = relu(conv(r, w) + b).

The halo of r is zero, not relu(br). Without gradients r never reaches memory; with them it is
saved once and serves as its own ReLU mask.
"""

from typing import Any

from pyinception import workspace
from pyinception.dispatch import Array, check, launch, wide
from pyinception.extents import padding_pair, pair
from pyinception.op import Op
from pyinception.spec import BranchSpec, ConvSpec


def reduce_conv_spec(
    function: str,
    x: Array,
    wr: Array,
    br: Array | None,
    w: Array,
    b: Array | None,
    stride: Any,
    padding: Any,
) -> BranchSpec:
    """The two-stage spec that these arrays imply, every shape and dtype checked.

    x (N, H, W, C), wr (Cr, 1, 1, C), br (Cr,) or None, w (K, R, S, Cr), b (K,) or None.
    """
    check(function, "x", x, "N H W C")
    check(function, "w_reduce", wr, "Cr 1 1 C", like=x)
    n, h, width, c = x.shape
    cr = wr.shape[0]
    check(function, "w_reduce", wr, "Cr 1 1 C", (cr, 1, 1, c), like=x)
    check(function, "w", w, "K R S Cr", like=x)
    k, r, s, _ = w.shape
    check(function, "w", w, "K R S Cr", (k, r, s, cr), like=x)
    for name, bias, letter, extent in (("b_reduce", br, "Cr", cr), ("b", b, "K", k)):
        if bias is not None:
            check(function, name, bias, letter, (extent,), like=x, dtype=wide(x))
    strides, paddings = pair(function, "stride", stride, 1), padding_pair(function, padding, (r, s))
    first = ConvSpec(n, h, width, c, cr, 1, 1, relu=True, bias=br is not None, function=function)
    last = ConvSpec(n, h, width, cr, k, r, s, strides, paddings, True, b is not None, function)
    return BranchSpec((first, last), function)


def reduce_conv_fprop(
    spec: BranchSpec, x: Array, *weights: Array | None, save: bool, out: Array | None, **how: Any
) -> tuple[Array, Array | None]:
    """(y, r): y (N, P, Q, K), into ``out`` if given; r (N, H, W, Cr) if ``save``, else None."""
    y = workspace.empty(spec.y_shape, x) if out is None else out
    r = workspace.empty(_reduced(spec), x) if save else None
    launch("reduce_conv", "fprop", spec, x, *weights, y, r, **how)
    return y, r


def reduce_conv_backward(
    spec: BranchSpec, gy: Array, x: Array, wr: Array, w: Array, r: Array, y: Array, **how: Any
) -> tuple[Array, ...]:
    """(gx, gwr, gbr, gw, gb), ReLU masks taken from r and y."""
    k, cr = spec.K, _reduced(spec)[3]
    shapes = tuple(wr.shape), (cr,), tuple(w.shape), (k,)
    grads = (
        workspace.empty(tuple(x.shape), x),
        *(workspace.empty(shape, x, wide(x)) for shape in shapes),
    )
    launch("reduce_conv", "backward", spec, gy, x, wr, w, r, y, *grads, False, **how)
    return grads


def _reduced(spec: BranchSpec) -> tuple[int, ...]:
    first = spec.stages[0]
    assert isinstance(first, ConvSpec)
    return first.y_shape


class ReduceConv(Op):
    """The fused branch as one step of the tape; ``out`` may be a slice of a wider map."""

    def __init__(self, stride: Any = 1, padding: Any = "same", out: Array | None = None) -> None:
        self.stride, self.padding, self.out = stride, padding, out

    def forward(self, x: Array, wr: Array, br: Array, w: Array, b: Array) -> Array:
        where = self.stride, self.padding
        self.spec = reduce_conv_spec("reduce_conv2d", x, wr, br, w, b, *where)
        if self.out is not None:
            check("reduce_conv2d", "out", self.out, "N P Q K", self.spec.y_shape, like=x)
        weights = wr, br, w, b
        y, r = reduce_conv_fprop(self.spec, x, *weights, save=self.recording, out=self.out)
        if self.recording:
            self.saved = (x, wr, w, r, y)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return reduce_conv_backward(self.spec, gy, *self.saved)
