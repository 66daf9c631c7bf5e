"""The gradient check itself: it passes what is right and catches what is wrong."""

from typing import Any

import numpy as np
import pytest

from pyinception.gradcheck import GradientError, gradcheck
from pyinception.op import Op
from pyinception.tensor import Tensor


class Cube(Op):
    """y = x^3, with a gradient scaled by ``factor``."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def forward(self, x: Any) -> Any:
        self.saved = (x,)
        return x**3

    def backward(self, gy: Any) -> Any:
        return gy * 3 * self.saved[0] ** 2 * self.factor


X = np.linspace(0.5, 2.0, 12).reshape(3, 4)


def test_right_gradients_pass() -> None:
    assert gradcheck(lambda x: Cube()(x), X) < 1e-7


@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0, float("nan")])
def test_wrong_gradients_are_caught(factor: float) -> None:
    with pytest.raises(GradientError, match="the central difference"):
        gradcheck(lambda x: Cube(factor)(x), X)


def test_one_wrong_element_is_caught() -> None:
    class Nearly(Cube):
        def backward(self, gy: Any) -> Any:
            gx = super().backward(gy)
            gx[1, 1] += 0.01
            return gx

    with pytest.raises(GradientError):
        gradcheck(lambda x: Nearly()(x), X)


def test_the_inputs_stay_as_they_were() -> None:
    x = X.copy()
    gradcheck(lambda a, b: a * b, x, X)
    np.testing.assert_array_equal(x, X)


def test_float32_is_refused() -> None:
    with pytest.raises(TypeError, match=r"arrays\[1\] has dtype float32"):
        gradcheck(lambda a, b: a * b, X, X.astype(np.float32))


def test_the_input_at_fault_is_named() -> None:
    class Product(Op):
        """y = a b + c, with a wrong gradient of b."""

        def forward(self, a: Any, b: Any, c: Any) -> Any:
            self.saved = (a, b)
            return a * b + c

        def backward(self, gy: Any) -> Any:
            a, b = self.saved
            return gy * b, gy * a * 1.01, gy

    shapes = r"with arrays\[1\] of shape \(3, 4\) moved alone backward gives [-\d.e]+, the central"
    with pytest.raises(GradientError, match=shapes):
        gradcheck(lambda a, b, c: Product()(a, b, c), X, X + 1, 1e6 * X)


def test_an_unused_input_has_no_gradient() -> None:
    assert gradcheck(lambda a, b: a * a, X, X) < 1e-6


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(TypeError, match="no arrays, expected at least one input"):
        gradcheck(lambda: Tensor(X))
    with pytest.raises(TypeError, match=r"arrays\[0\] has dtype list, expected float64"):
        gradcheck(lambda a: a, [1.0])
    with pytest.raises(TypeError, match="function returned ndarray, expected a Tensor"):
        gradcheck(lambda a: a.data, X)
    with pytest.raises(TypeError, match="the result has dtype float32, expected float64"):
        gradcheck(lambda a: Tensor(a.data.astype(np.float32)), X)
