"""The residual sum of Inception-ResNet, y = [relu](a + scale b): arXiv 1602.07261, section 3.3."""

from functools import partial

from pyinception import workspace
from pyinception.dispatch import Array
from pyinception.op import Op


def add_scaled(scale: float, relu: bool, a: Array, b: Array, y: Array) -> None:
    """y = [relu](a + scale b)."""
    y[...] = b
    y *= y.dtype.type(scale)
    y += a
    if relu:
        y[y <= 0] = 0


class AddScaled(Op):
    """y = [relu](a + scale b), of equal shapes."""

    shares_gradient = True

    def __init__(self, scale: float, relu: bool) -> None:
        self.scale, self.relu = scale, relu

    def forward(self, a: Array, b: Array) -> Array:
        if tuple(a.shape) != tuple(b.shape):
            text = f"b has shape {tuple(b.shape)}, expected {tuple(a.shape)}"
            raise ValueError(f"add_scaled: {text}")
        y = workspace.empty(tuple(a.shape), a)
        workspace.host(partial(add_scaled, self.scale, self.relu), a, b, y)
        self.saved = (y if self.relu else None,)
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        (y,) = self.saved
        if y is not None:
            gy = gy * (y > 0)
        return gy, gy * gy.dtype.type(self.scale)
