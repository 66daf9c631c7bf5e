"""The ops behind + and *, and the mean: a few lines of NumPy or CuPy each."""

from typing import Any

from pyinception import workspace
from pyinception.dispatch import Array
from pyinception.op import OPERATORS, Op, Tensor


class Add(Op):
    """y = a + b, of equal shapes; or a + a Python number."""

    shares_gradient = True

    def __init__(self, constant: float = 0.0) -> None:
        self.constant = constant

    def forward(self, a: Array, b: Array | None = None) -> Array:
        y = workspace.empty(tuple(a.shape), a)
        other = a.dtype.type(self.constant) if b is None else b
        workspace.host(lambda x, z, out: _write(out, x + z), a, other, y)
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        return (gy,) * len(self.needs)


class Mul(Op):
    """y = a b, element by element, of equal shapes; or a times a Python number."""

    def __init__(self, constant: float = 1.0) -> None:
        self.constant = constant

    def forward(self, a: Array, b: Array | None = None) -> Array:
        y = workspace.empty(tuple(a.shape), a)
        other = a.dtype.type(self.constant) if b is None else b
        self.saved = (a, b)
        workspace.host(lambda x, z, out: _write(out, x * z), a, other, y)
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        a, b = self.saved
        if b is None:
            return (gy * gy.dtype.type(self.constant),)
        return gy * b, gy * a


class Mean(Op):
    """y = sum(x) / count as one number; 0 for no elements: an empty batch trains nothing."""

    def forward(self, x: Array) -> Array:
        y = workspace.empty((), x)
        count = max(x.size, 1)
        workspace.host(lambda source, out: _write(out, source.sum() / count), x, y)
        self.shape, self.count = tuple(x.shape), count
        return y

    def backward(self, gy: Array) -> Array:
        gx = workspace.empty(self.shape, gy)
        gx[...] = gy / gy.dtype.type(self.count)
        return gx


def _write(out: Array, value: Any) -> None:
    out[...] = value


def _binary(name: str, op: type[Add] | type[Mul], a: Tensor, other: Any) -> Tensor:
    if isinstance(other, Tensor):
        if (other.shape, other.dtype) != (a.shape, a.dtype):
            text = f"the right side is {other!r}, expected shape {a.shape} and dtype {a.dtype}"
            raise ValueError(f"{name}: {text}")
        return op()(a, other)
    if isinstance(other, (int, float)):
        return op(float(other))(a)
    raise TypeError(f"{name}: the right side is {type(other).__name__}, expected Tensor or number")


OPERATORS["add"] = lambda a, other: _binary("add", Add, a, other)
OPERATORS["mul"] = lambda a, other: _binary("mul", Mul, a, other)
