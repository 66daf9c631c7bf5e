"""The residual sum, y = [relu](a + scale b), and ReLU alone, which is it without b.

Inception-ResNet scales its branches by 0.1 to 0.3 (arXiv 1602.07261, section 3.3), Xception by 1.
"""

from pyinception import workspace
from pyinception.dispatch import Array, check, launch
from pyinception.op import Op
from pyinception.spec import AddScaledSpec

_LETTERS = {2: "N C", 4: "N H W C"}


def add_scaled_fprop(
    spec: AddScaledSpec, a: Array, b: Array | None, out: Array | None = None
) -> Array:
    """y = [relu](a + scale b), into ``out`` if given; b None: y = relu(a)."""
    y = workspace.empty(spec.shape, a) if out is None else out
    launch("add_scaled", "fprop", spec, a, b, y)
    return y


def add_scaled_dgrad(
    spec: AddScaledSpec, gy: Array, y: Array | None, *, wants: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """ga = gy where y > 0 (everywhere without y), gb = scale ga; those that are wanted."""
    ga, gb = (workspace.empty(spec.shape, gy) if want else None for want in wants)
    if any(wants):
        launch("add_scaled", "dgrad", spec, gy, y, ga, gb)
    return ga, gb


def _spec(function: str, a: Array, scale: float, relu: bool) -> AddScaledSpec:
    if len(a.shape) not in _LETTERS:
        text = f"a has shape {tuple(a.shape)}, expected (N, C) or (N, H, W, C)"
        raise ValueError(f"{function}: {text}")
    check(function, "a", a, _LETTERS[len(a.shape)])
    return AddScaledSpec(tuple(a.shape), float(scale), relu, function)


class AddScaled(Op):
    """y = [relu](a + scale b), of equal shapes; ``out`` may be a slice of a wider map."""

    shares_gradient = True  # without ReLU the gradient of a is that of y

    def __init__(self, scale: float, relu: bool, out: Array | None = None) -> None:
        self.scale, self.relu, self.out = scale, relu, out

    def forward(self, a: Array, b: Array) -> Array:
        self.spec = _spec("add_scaled", a, self.scale, self.relu)
        letters = _LETTERS[len(a.shape)]
        check("add_scaled", "b", b, letters, self.spec.shape, like=a)
        if self.out is not None:
            check("add_scaled", "out", self.out, letters, self.spec.shape, like=a)
        y = add_scaled_fprop(self.spec, a, b, self.out)
        self.saved = (y if self.relu else None,)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        (y,) = self.saved
        if y is not None:
            return add_scaled_dgrad(self.spec, gy, y, wants=(self.needs[0], self.needs[1]))
        if self.scale == 1:
            return gy, gy
        _, gb = add_scaled_dgrad(self.spec, gy, None, wants=(False, self.needs[1]))
        return gy, gb


class Relu(Op):
    """y = +0 where x <= 0, else x: NaN stays NaN, and -0.0 becomes +0.0."""

    def forward(self, x: Array) -> Array:
        self.spec = _spec("relu", x, 1.0, True)
        y = add_scaled_fprop(self.spec, x, None)
        self.saved = (y,)
        return y

    def backward(self, gy: Array) -> Array | None:
        gx, _ = add_scaled_dgrad(self.spec, gy, *self.saved, wants=(True, False))
        return gx
