"""Special values through ReLU and max pool, and concatenation that copies nothing."""

import numpy as np
import pytest

import pyinception as pyi
from pyinception import ops, workspace
from pyinception.tensor import Tensor


def test_special_values() -> None:
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    x = np.array([-0.0, 0.0, -1, 2, nan, inf, -inf, 1e-45], np.float32).reshape(1, 1, 8, 1)
    one = np.ones((1, 1, 1, 1), np.float32)
    for y in (pyi.conv2d(x, one, relu=True), ops.Relu()(Tensor(x)).data):
        expected = np.array([0, 0, 0, 2, nan, inf, 0, 1e-45], np.float32).reshape(x.shape)
        np.testing.assert_array_equal(y, expected)
        assert not np.signbit(y[~np.isnan(y)]).any()
    y, argmax = pyi.max_pool2d(x, (1, 8), return_argmax=True)
    assert np.isnan(y).all()
    assert argmax.item() == 4
    _, argmax = pyi.max_pool2d(np.ones((1, 3, 3, 1), np.float32), 3, return_argmax=True)
    assert argmax.item() == 0  # the first maximum wins


def test_concat_is_an_address() -> None:
    y = np.full((2, 3, 3, 5), np.nan, np.float32)
    counted = sum(workspace.copies.values())
    left, right = y[..., :2], y[..., 2:]
    left[...], right[...] = 1, 2
    joined = ops.concat([Tensor(left), Tensor(right)], out=y)
    assert joined.data is y
    assert sum(workspace.copies.values()) == counted
    apart = ops.concat([Tensor(left.copy()), Tensor(right)], out=y)
    assert apart.data is y
    assert sum(workspace.copies.values()) == counted + 1
    swapped = ops.concat([Tensor(right.copy()), Tensor(left.copy())])
    np.testing.assert_array_equal(swapped.data[..., 0], 2)
    with pytest.raises(ValueError, match=r"concat: parts\[1\] has shape"):
        ops.concat([Tensor(left), Tensor(right[:1])])
    with pytest.raises(ValueError, match="concat: out has shape"):
        ops.concat([Tensor(left), Tensor(right)], out=y[..., :4])
    with pytest.raises(ValueError, match="parts is empty"):
        ops.concat([])


def test_concat_backward_hands_out_views() -> None:
    parts = [Tensor(np.ones((1, 2, 2, c), np.float32), requires_grad=True) for c in (2, 3)]
    op = ops.Concat()
    op(*parts)
    gy = np.arange(20, dtype=np.float32).reshape(1, 2, 2, 5)
    for g, where in zip(op.backward(gy), (slice(0, 2), slice(2, 5)), strict=True):
        assert np.shares_memory(g, gy)
        np.testing.assert_array_equal(g, gy[..., where])
