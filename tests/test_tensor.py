"""The tape: accumulation, order, freeing, and what it refuses."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from pyinception.op import Op
from pyinception.ops import Add, Mul, concat
from pyinception.tensor import Parameter, Tensor, no_grad


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float32), requires_grad=True)


def test_sums_and_products() -> None:
    a, b = leaf(1, 2), leaf(3, 5)
    y = 2.0 * (a + b) * a + 1
    np.testing.assert_array_equal(y.data, [9, 29])
    y.backward(np.array([1, 10], np.float32))
    np.testing.assert_array_equal(a.grad, [2 * (2 * 1 + 3), 20 * (2 * 2 + 5)])
    np.testing.assert_array_equal(b.grad, [2, 40])


def test_gradients_accumulate_until_forgotten() -> None:
    a = leaf(1, 2)
    for expected in (3, 6):
        (a * 3).backward(np.ones(2, np.float32))
        np.testing.assert_array_equal(a.grad, [expected] * 2)
    a.grad = None
    (a + a + a).backward(np.ones(2, np.float32))
    np.testing.assert_array_equal(a.grad, [3, 3])


def test_no_two_gradients_share_memory() -> None:
    a, b, seed = leaf(1, 2), leaf(3, 4), np.ones(2, np.float32)
    (a + b).backward(seed)
    assert a.grad is not None
    a.grad += 5
    np.testing.assert_array_equal(b.grad, [1, 1])
    np.testing.assert_array_equal(seed, [1, 1])
    parts = [Tensor(np.ones((1, 1, 1, 2), np.float32), requires_grad=True) for _ in range(2)]
    gy = np.ones((1, 1, 1, 4), np.float32)
    concat(parts).backward(gy)
    assert not np.shares_memory(parts[0].grad, gy)
    y = a + b
    (y + y).backward(seed)  # the first sum is shared, the second must not write into it
    np.testing.assert_array_equal(seed, [1, 1])


def test_a_diamond_is_walked_once() -> None:
    a = leaf(2)
    b = a * a
    y = b + b * b  # y = a^2 + a^4
    y.backward()
    np.testing.assert_array_equal(a.grad, [2 * 2 + 4 * 8])


def test_a_long_tape_needs_no_stack() -> None:
    a = leaf(1)
    y = a
    for _ in range(5000):
        y = y + 1
    y.backward()
    np.testing.assert_array_equal(a.grad, [1])


def test_a_graph_is_used_once() -> None:
    a = leaf(1)
    y = a * a
    y.backward()
    with pytest.raises(RuntimeError, match="Mul was used already, its saved data is freed"):
        y.backward()


def test_backward_frees_what_forward_saved() -> None:
    a = leaf(1, 2)
    middle = a * a
    watch = weakref.ref(middle)
    y = middle * middle
    del middle
    gc.collect()
    assert watch() is not None
    y.backward(np.ones(2, np.float32))
    gc.collect()
    assert watch() is None


def test_a_parameter_changed_in_between_is_noticed() -> None:
    w = Parameter((2,), constant=1.0)
    y = w * w
    w.data += 1
    w.version += 1
    with pytest.raises(RuntimeError, match="a parameter of Mul changed since forward"):
        y.backward(np.ones(2, np.float32))


@pytest.mark.parametrize("last", [False, True])
def test_a_refused_backward_has_stored_nothing(last: bool) -> None:
    a, b = Parameter((2,), constant=1.0), Parameter((2,), constant=2.0)
    one = np.ones(2, np.float32)
    inner = Tensor(one, True) * a
    y = inner * b if last else b * inner
    a.changed()
    with pytest.raises(RuntimeError, match="a parameter of Mul changed"):
        y.backward(one)
    assert a.grad is None
    assert b.grad is None
    shared = Tensor(one, True) * a
    first, second = b * shared, b * shared
    first.backward(one)
    before = b.grad.copy()
    with pytest.raises(RuntimeError, match="Mul was used already"):
        second.backward(one)
    np.testing.assert_array_equal(b.grad, before)


def test_nothing_is_recorded_without_need() -> None:
    a = leaf(1)
    with no_grad():
        assert not (a + 1).requires_grad
    assert not (Tensor(a.data) + 1).requires_grad
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        Tensor(a.data).backward()


def test_constants_get_no_gradient() -> None:
    a, b = leaf(1), Tensor(np.array([2], np.float32))
    (a * b).backward()
    assert b.grad is None
    np.testing.assert_array_equal(a.grad, [2])


def test_refusals() -> None:
    a = leaf(1, 2)
    with pytest.raises(ValueError, match="expected one number or a gradient="):
        (a + 1).backward()
    with pytest.raises(ValueError, match="backward: gradient is"):
        (a + 1).backward(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="backward: gradient is"):
        (a + 1).backward(np.ones(2))
    with pytest.raises(ValueError, match="add: the right side is"):
        a + leaf(1)
    with pytest.raises(TypeError, match="mul: the right side is str"):
        a * "2"
    with pytest.raises(TypeError, match="not a list"):
        Tensor([1, 2])


def test_numpy_leaves_the_operators_to_us() -> None:
    with pytest.raises(TypeError):
        np.ones(2, np.float32) + leaf(1, 2)


def test_an_op_without_a_gradient_for_an_input_is_fine() -> None:
    class Half(Op):
        def forward(self, a: Any, b: Any) -> Any:
            return a + b

        def backward(self, gy: Any) -> Any:
            return gy.copy(), None

    a, b = leaf(1), leaf(2)
    Half()(a, b * 1).backward()
    np.testing.assert_array_equal(a.grad, [1])
    assert b.grad is None


def test_a_gradient_of_a_wrong_shape_is_noticed() -> None:
    class Wrong(Op):
        def forward(self, a: Any) -> Any:
            return a.copy()

        def backward(self, gy: Any) -> Any:
            return gy[:1]

    with pytest.raises(RuntimeError, match=r"a gradient has shape \(1,\), not \(2,\)"):
        Wrong()(leaf(1, 2)).backward(np.ones(2, np.float32))


def test_scalars() -> None:
    a = leaf(3)
    y = Mul(0.5)(Add()(a, a))
    assert y.item() == 3.0
    assert "shape=(1,)" in repr(y)
