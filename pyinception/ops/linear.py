"""Linear layer: y = [relu](x w^T + b), and its gradients with the ReLU mask taken from y."""

from typing import Any

from pyinception import workspace
from pyinception.dispatch import Array, check, launch, wide
from pyinception.op import Op
from pyinception.spec import LinearSpec


def linear_spec(function: str, x: Array, w: Array, b: Array | None, relu: bool) -> LinearSpec:
    """The spec that x (N, C), w (K, C), b (K,) or None imply, all checked."""
    check(function, "x", x, "N C")
    n, c = x.shape
    k = w.shape[0] if getattr(w, "shape", ()) else 1
    if getattr(w, "ndim", 2) == 4:  # packed weights have the shape of a 1x1 filter
        check(function, "w", w, "K 1 1 C", (k, 1, 1, c), like=x)
    else:
        check(function, "w", w, "K C", (k, c), like=x)
    if b is not None:
        check(function, "b", b, "K", (k,), like=x, dtype=wide(x))
    return LinearSpec(n, c, k, relu, b is not None, function)


def linear_fprop(
    spec: LinearSpec, x: Array, w: Array, b: Array | None, out: Array | None = None, **how: Any
) -> Array:
    """y (N, K), into ``out`` if given."""
    y = workspace.empty((spec.N, spec.K), x) if out is None else out
    launch("linear", "fprop", spec, x, w, b, y, **how)
    return y


def linear_dgrad(spec: LinearSpec, gy: Array, w: Array, y: Array | None, **how: Any) -> Array:
    """gx (N, C) = gy w; with y, gy counts only where y > 0."""
    gx = workspace.empty((spec.N, spec.C), gy)
    launch("linear", "dgrad", spec, gy, w, y, gx, **how)
    return gx


def linear_wgrad(
    spec: LinearSpec, x: Array, gy: Array, y: Array | None, **how: Any
) -> tuple[Array, Array | None]:
    """gw (K, C) = gy^T x and gb (K,) = sum_n gy, the latter None where there is no bias."""
    gw = workspace.empty((spec.K, spec.C), x, wide(x))
    gb = workspace.empty((spec.K,), x, wide(x)) if spec.bias else None
    launch("linear", "wgrad", spec, x, gy, y, gw, gb, **how)
    return gw, gb


class Linear(Op):
    """y = [relu](x w^T + b) as one step of the tape."""

    def __init__(self, relu: bool = False) -> None:
        self.relu = relu

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        self.spec = linear_spec("linear", x, w, b, self.relu)
        y = linear_fprop(self.spec, x, w, b)
        if self.recording:
            self.saved = (x, w, y if self.relu else None)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        x, w, y = self.saved
        gx = linear_dgrad(self.spec, gy, w, y) if self.needs[0] else None
        if not any(self.needs[1:]):
            return gx, None, None
        return gx, *linear_wgrad(self.spec, x, gy, y)
