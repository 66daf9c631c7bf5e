"""Winograd inside `reduce_conv` and `inception`, forward and backward, on integers."""

import numpy as np
import pytest
from pyinception.kernels import reference
from winograd_cases import EXACT, packed, same

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")


def branch(n=5, h=14, width=13, c=20, cr=33, k=48, exact=True):
    rng = np.random.default_rng(11)

    def numbers(*shape):
        if exact:
            return rng.integers(-1, 2, shape).astype(np.float32)
        return rng.standard_normal(shape).astype(np.float32) / np.float32(8)

    w = numbers(k, 3, 3, cr) * (rng.random((k, 3, 3, cr)) < 0.2)
    w = (w * EXACT if exact else w).astype(np.float32)
    return numbers(n, h, width, c), numbers(cr, 1, 1, c), numbers(cr), w, numbers(k)


@pytest.mark.parametrize("threads", [1, 3])
def test_reduce_conv(threads):
    how = (3, 3), (1, 1), (1, 1)
    for exact in (True, False):
        x, wr, br, w, b = branch(exact=exact)
        expected, reduced = reference.reduce_conv_fprop(x, wr, br, w, b, padding=(1, 1))
        fused, y = np.empty_like(expected), np.empty_like(expected)
        r = np.empty_like(reduced)
        core.reduce_conv_fprop(x, wr, br, w, b, fused, None, *how, "winograd", "", threads)
        core.reduce_conv_fprop(x, wr, br, w, b, y, r, *how, "winograd", "", threads)
        same(fused, y)
        two, mid = np.empty_like(y), np.empty_like(r)
        core.conv_fprop(x, wr, br, mid, (1, 1), (1, 1), (0, 0), True, "direct")
        core.conv_fprop(mid, w, b, two, *how, True, "winograd")
        same(fused, two)
        if exact:
            np.testing.assert_array_equal(fused, expected)
    x = x[:2].copy()
    core.reduce_conv_fprop(x, wr, br, w, b, fused[:2], None, *how, "winograd", "", threads)
    same(fused[:2], y[:2])
    seven = np.ones((4, 7, 7, 33), np.float32)
    with pytest.raises(NotImplementedError, match=r"reduce_conv_fprop: .*needs stride 2 for 7x7"):
        out = np.empty((2, 14, 13, 4), np.float32)
        how = (7, 7), (1, 1), (3, 3), "winograd"
        core.reduce_conv_fprop(x, wr, br, seven, None, out, None, *how)


def test_reduce_conv_backward():
    x, wr, br, w, b = branch(n=2, h=7, width=6)
    y, r = reference.reduce_conv_fprop(x, wr, br, w, b, padding=(1, 1))
    gy = np.random.default_rng(4).integers(-1, 2, y.shape).astype(np.float32)
    expected = reference.reduce_conv_backward(gy, x, wr, w, r, y, stride=(1, 1), padding=(1, 1))
    outs = [np.full_like(a, np.nan) for a in expected]
    how = (3, 3), (1, 1), (1, 1), False, "winograd", "", 2
    core.reduce_conv_backward(gy, x, wr, w, r, y, *outs, *how)
    for a, e in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_inception():
    """3x3 and 5x5 by Winograd, 1x1 direct; packed and raw filters. The 5x5 rounds a little."""
    rng = np.random.default_rng(5)
    x = rng.integers(-1, 2, (3, 9, 10, 24)).astype(np.float32)
    extents = ((8, 1, 24), (16, 1, 24), (40, 3, 16), (4, 1, 24), (8, 5, 4), (8, 1, 24))
    weights = []
    for k, side, c in extents:
        w = rng.integers(-1, 2, (k, side, side, c)).astype(np.float32)
        weights += [w * EXACT if side == 3 else w, rng.integers(-2, 3, k).astype(np.float32)]
    expected, saved = reference.inception_fprop(x, tuple(weights))

    def same_but_five(y, expected):
        five = slice(48, 56)
        np.testing.assert_array_equal(np.delete(y, five, -1), np.delete(expected, five, -1))
        np.testing.assert_allclose(y[..., five], expected[..., five], rtol=0, atol=1e-3)

    y = np.full_like(expected, np.nan)
    core.inception_fprop(x, tuple(weights), y, None, "winograd", "", 2)
    same_but_five(y, expected)
    ready = [packed(a, "fprop", "winograd") if a.ndim == 4 else a for a in weights]
    y[...] = np.nan
    core.inception_fprop(x, tuple(ready), y, None, "winograd", "", 1)
    same_but_five(y, expected)
    gy = rng.integers(-1, 2, y.shape).astype(np.float32)
    gx, grads = reference.inception_backward(gy, x, tuple(weights), expected, saved)
    outs = [np.full_like(a, np.nan) for a in (gx, *grads)]
    core.inception_backward(
        gy, x, tuple(weights), expected, saved, outs[0], tuple(outs[1:]), "winograd", "", 2
    )
    for a, e in zip(outs, (gx, *grads), strict=True):
        np.testing.assert_array_equal(np.rint(a), e)
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-3)
