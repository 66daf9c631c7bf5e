"""Local response normalisation: y_c = x_c (k + alpha/size sum_{c'} x_{c'}^2)^-beta.

The window of ``size`` channels is centred on c and zero outside the channels (Caffe, lrn_layer.cpp;
note that alpha is divided by size).
"""

from typing import Any

from pyinception import workspace
from pyinception.dispatch import Array, check, launch
from pyinception.op import Op
from pyinception.spec import LrnSpec


def lrn_spec(function: str, x: Array, size: int, alpha: float, beta: float, k: float) -> LrnSpec:
    """The spec that x (N, H, W, C) and the constants imply."""
    check(function, "x", x, "N H W C")
    n, h, w, c = x.shape
    return LrnSpec(n, h, w, c, size, float(alpha), float(beta), float(k), function)


def lrn_fprop(spec: LrnSpec, x: Array, out: Array | None = None, **how: Any) -> Array:
    """y, of x's shape, into ``out`` if given."""
    y = workspace.empty(spec.x_shape, x) if out is None else out
    launch("lrn", "fprop", spec, x, y, **how)
    return y


def lrn_dgrad(spec: LrnSpec, gy: Array, x: Array, **how: Any) -> Array:
    """gx_c = gy_c t_c^-beta - 2 alpha beta / size x_c sum_{c'} gy_c' x_c' t_c'^(-beta-1)."""
    gx = workspace.empty(spec.x_shape, gy)
    launch("lrn", "dgrad", spec, gy, x, gx, **how)
    return gx


class Lrn(Op):
    """Local response normalisation as one step of the tape."""

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        self.constants = size, alpha, beta, k

    def forward(self, x: Array) -> Array:
        self.spec = lrn_spec("lrn", x, *self.constants)
        if self.recording:
            self.saved = (x,)
        return lrn_fprop(self.spec, x)

    def backward(self, gy: Array) -> Array:
        return lrn_dgrad(self.spec, gy, *self.saved)
