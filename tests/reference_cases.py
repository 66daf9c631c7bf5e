"""Draws, comparisons and a convolution by loops, for the tests of the NumPy reference."""

from itertools import product

import numpy as np


def whole(rng, *shape):
    """Small integers: every sum of their products is exact, in any order."""
    return rng.integers(-4, 5, shape).astype(np.float64)


def real(rng, *shape):
    return rng.normal(size=shape)


def inner(a, b):
    return float(np.sum(a * b))


def close(actual, expected, tolerance=1e-12):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    scale = max(1.0, np.abs(expected).max(initial=0))
    assert np.abs(actual - expected).max(initial=0) <= tolerance * scale


def relative_error(actual, expected) -> float:
    """max|actual - expected| / max|expected|."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def same_bits(actual, expected):
    """Equal, NaN where NaN, and -0.0 apart from +0.0."""
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected))


def naive_conv(x, w, b, stride, padding, gy=None):
    """(y, gx, gw) by loops; the gradients are of sum(gy y)."""
    (N, H, W, _), (K, R, S, _) = x.shape, w.shape
    tops = range(-padding[0], H + padding[0] - R + 1, stride[0])
    lefts = range(-padding[1], W + padding[1] - S + 1, stride[1])
    y = np.zeros((N, len(tops), len(lefts), K)) + b
    gx, gw = np.zeros_like(x), np.zeros_like(w)
    gy = np.zeros_like(y) if gy is None else gy
    for n, (p, top), (q, left) in product(range(N), enumerate(tops), enumerate(lefts)):
        for r, s, k in product(range(R), range(S), range(K)):
            i, j = top + r, left + s
            if 0 <= i < H and 0 <= j < W:
                y[n, p, q, k] += sum(a * c for a, c in zip(x[n, i, j], w[k, r, s], strict=True))
                gx[n, i, j] += gy[n, p, q, k] * w[k, r, s]
                gw[k, r, s] += gy[n, p, q, k] * x[n, i, j]
    return y, gx, gw


def module_weights(rng, fill, C=3, K=(2, 5, 3, 4), reduced=(3, 2)):
    shapes = [(K[0], 1, 1, C), (reduced[0], 1, 1, C), (K[1], 3, 3, reduced[0])]
    shapes += [(reduced[1], 1, 1, C), (K[2], 5, 5, reduced[1]), (K[3], 1, 1, C)]
    return tuple(fill(rng, *shape) for w in shapes for shape in (w, w[:1]))
