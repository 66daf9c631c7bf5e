"""The reference of depthwise convolution and of the residual sum against plain loops."""

from itertools import product

import numpy as np
import pytest
from pyinception.kernels import reference

CASES = [  # (N, H, W, C), M, (R, S), stride, padding
    ((1, 1, 1, 1), 1, (1, 1), (1, 1), (0, 0)),
    ((2, 3, 3, 3), 1, (3, 3), (1, 1), (1, 1)),  # every extent equal: no axis may be mistaken
    ((2, 5, 7, 3), 2, (3, 3), (2, 2), (1, 1)),
    ((1, 7, 5, 2), 3, (3, 2), (3, 2), (0, 1)),
    ((1, 2, 3, 2), 1, (2, 2), (1, 3), (4, 5)),  # windows wholly in the padding
    ((1, 9, 8, 3), 8, (7, 7), (2, 2), (3, 3)),  # GoogLeNet's separable stem
    ((0, 5, 5, 2), 1, (3, 3), (1, 1), (1, 1)),
]


def whole(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float64)


def loops(x, w, b, stride, padding, gy):
    """(y, gx, gw) of sum(gy y), one number at a time."""
    (N, H, W, C), (K, R, S, _) = x.shape, w.shape
    y, gx, gw = np.zeros_like(gy) + b, np.zeros_like(x), np.zeros_like(w)
    for n, p, q, k in product(range(N), range(gy.shape[1]), range(gy.shape[2]), range(K)):
        for r, s in product(range(R), range(S)):
            i, j = p * stride[0] - padding[0] + r, q * stride[1] - padding[1] + s
            if 0 <= i < H and 0 <= j < W:
                c = k * C // K
                y[n, p, q, k] += x[n, i, j, c] * w[k, r, s, 0]
                gx[n, i, j, c] += gy[n, p, q, k] * w[k, r, s, 0]
                gw[k, r, s, 0] += gy[n, p, q, k] * x[n, i, j, c]
    return y, gx, gw


@pytest.mark.parametrize(("shape", "multiplier", "kernel", "stride", "padding"), CASES)
def test_equals_loops(shape, multiplier, kernel, stride, padding):
    rng = np.random.default_rng(1)
    where = {"stride": stride, "padding": padding}
    x, w = whole(rng, *shape), whole(rng, shape[3] * multiplier, *kernel, 1)
    b = whole(rng, len(w))
    y = reference.depthwise_conv2d_fprop(x, w, b, **where)
    gy = whole(rng, *y.shape)
    gx = reference.depthwise_conv2d_dgrad(gy, w, x.shape, **where)
    gw, gb = reference.depthwise_conv2d_wgrad(x, gy, w.shape, **where)
    expected = (*loops(x, w, b, stride, padding, gy), gy.sum((0, 1, 2)))
    for actual, wanted in zip((y, gx, gw, gb), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize(("shape", "multiplier", "kernel", "stride", "padding"), CASES[1:6])
def test_is_a_convolution_with_zeros_between_channels(shape, multiplier, kernel, stride, padding):
    rng = np.random.default_rng(2)
    where = {"stride": stride, "padding": padding, "relu": True}
    x, w = whole(rng, *shape), whole(rng, shape[3] * multiplier, *kernel, 1)
    dense = np.where(np.arange(len(w))[:, None] // multiplier == np.arange(shape[3]), 1.0, 0.0)
    y = reference.conv2d_fprop(x, w * dense[:, None, None], **where)
    np.testing.assert_array_equal(reference.depthwise_conv2d_fprop(x, w, **where), y)


def test_masks_count_where_y_is_positive():
    rng = np.random.default_rng(3)
    x, w, gy = whole(rng, 2, 4, 5, 3), whole(rng, 3, 3, 3, 1), whole(rng, 2, 2, 3, 3)
    y = whole(rng, *gy.shape)
    for with_mask, without in zip(
        (reference.depthwise_conv2d_dgrad(gy, w, x.shape, y=y),
         *reference.depthwise_conv2d_wgrad(x, gy, w.shape, y=y)),
        (reference.depthwise_conv2d_dgrad(gy * (y > 0), w, x.shape),
         *reference.depthwise_conv2d_wgrad(x, gy * (y > 0), w.shape)),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(with_mask, without)


def test_a_sum_of_channels_that_does_not_come_out():
    x, w = np.zeros((1, 4, 4, 3)), np.zeros((4, 3, 3, 1))
    with pytest.raises(ValueError, match="K = 4, expected a multiple of C = 3"):
        reference.depthwise_conv2d_fprop(x, w)


def test_add_scaled():
    a = np.array([[1.0, -1.0, np.nan, -0.0], [3.0, 0.5, -4.0, 2.0]])
    b = np.array([[2.0, 2.0, 1.0, 0.0], [-8.0, 0.0, 2.0, -8.0]])
    np.testing.assert_array_equal(
        reference.add_scaled_fprop(a, b, scale=0.25, relu=False),
        [[1.5, -0.5, np.nan, 0.0], [1.0, 0.5, -3.5, 0.0]],
    )
    y = reference.add_scaled_fprop(a, b, scale=0.25, relu=True)
    np.testing.assert_array_equal(y, [[1.5, 0.0, np.nan, 0.0], [1.0, 0.5, 0.0, 0.0]])
    only = reference.add_scaled_fprop(a, None, scale=0.25, relu=True)
    np.testing.assert_array_equal(only, [[1.0, 0.0, np.nan, 0.0], [3.0, 0.5, 0.0, 2.0]])
    assert not np.signbit(only[0, 3])
    gy = np.array([[4.0, 4.0, 4.0, 4.0], [8.0, -8.0, 8.0, 8.0]])
    ga, gb = reference.add_scaled_dgrad(gy, scale=0.25, y=y)
    np.testing.assert_array_equal(ga, [[4.0, 0.0, 0.0, 0.0], [8.0, -8.0, 0.0, 0.0]])
    np.testing.assert_array_equal(gb, ga / 4)
    np.testing.assert_array_equal(reference.add_scaled_dgrad(gy, scale=0.25)[0], gy)
