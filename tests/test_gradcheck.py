"""The gradient check itself: it passes what is right and catches what is wrong."""

from typing import Any

import numpy as np
import pytest

from pyinception.gradcheck import GradientError, gradcheck
from pyinception.op import Op


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
