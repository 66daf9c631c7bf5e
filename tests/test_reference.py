"""The NumPy reference against the same formulas written another way.

Plain loops that never touch a padded pixel, einsum over sliding windows, adjoint identities on
integers (exact in float64). Cases start from the awkward.
"""

import math
from itertools import product

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from pyinception.kernels import reference
from reference_cases import close, inner, module_weights, naive_conv, real, same_bits, whole

NAN, INF = math.nan, math.inf


# ----------------------------------------------------------------------------------- convolution

CONVS = [  # (N, H, W, C), (K, R, S), stride, padding
    ((1, 1, 1, 1), (1, 1, 1), (1, 1), (0, 0)),
    ((2, 1, 1, 3), (2, 3, 3), (1, 1), (1, 1)),
    ((1, 3, 3, 3), (3, 3, 3), (1, 1), (1, 1)),  # every extent equal: no axis may be mistaken
    ((2, 5, 7, 3), (4, 3, 3), (2, 2), (1, 1)),
    ((1, 7, 5, 2), (3, 3, 2), (3, 2), (0, 1)),
    ((2, 4, 9, 3), (2, 1, 7), (1, 1), (0, 3)),
    ((1, 9, 4, 3), (2, 7, 1), (1, 2), (3, 0)),
    ((1, 2, 3, 2), (2, 2, 2), (1, 3), (4, 5)),  # windows wholly in the padding
    ((1, 11, 6, 2), (3, 5, 5), (3, 3), (2, 2)),
    ((1, 6, 8, 5), (4, 4, 3), (2, 3), (1, 0)),  # pixels that no window reaches
    ((1, 8, 8, 1), (1, 1, 1), (3, 3), (0, 0)),
    ((0, 5, 5, 2), (3, 3, 3), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("fill", [whole, real])
@pytest.mark.parametrize(("x_shape", "krs", "stride", "padding"), CONVS)
def test_conv2d_equals_loops(x_shape, krs, stride, padding, fill):
    rng = np.random.default_rng(1)
    geometry = {"stride": stride, "padding": padding}
    x, w, b = fill(rng, *x_shape), fill(rng, *krs, x_shape[3]), fill(rng, krs[0])
    y = reference.conv2d_fprop(x, w, b, **geometry)
    gy = fill(rng, *y.shape)
    gx = reference.conv2d_dgrad(gy, w, x.shape, **geometry)
    gw, gb = reference.conv2d_wgrad(x, gy, w.shape, **geometry)
    naive = (*naive_conv(x, w, b, stride, padding, gy), gy.sum(axis=(0, 1, 2)))
    for actual, expected in zip((y, gx, gw, gb), naive, strict=True):
        close(actual, expected, 0 if fill is whole else 1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_conv2d_equals_einsum_and_its_adjoints_are_exact(seed):
    rng = np.random.default_rng(seed)
    kernel, (ph, pw), stride = rng.integers(1, 6, 2), rng.integers(0, 4, 2), rng.integers(1, 4, 2)
    H, W = np.maximum(1, kernel - 2 * np.array([ph, pw])) + rng.integers(0, 7, 2)
    N, C, K = rng.integers(1, 5, 3)
    x, w = whole(rng, N, H, W, C), whole(rng, K, *kernel, C)
    geometry = {"stride": tuple(stride), "padding": (ph, pw)}
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    seen = sliding_window_view(padded, tuple(kernel), axis=(1, 2))[:, :: stride[0], :: stride[1]]
    y = reference.conv2d_fprop(x, w, **geometry)
    np.testing.assert_array_equal(y, np.einsum("npqcrs,krsc->npqk", seen, w))
    g = whole(rng, *y.shape)
    gw, gb = reference.conv2d_wgrad(x, g, w.shape, **geometry)
    np.testing.assert_array_equal(gw, np.einsum("npqcrs,npqk->krsc", seen, g))
    assert inner(y, g) == inner(x, reference.conv2d_dgrad(g, w, x.shape, **geometry))
    assert inner(y, g) == inner(w, gw)
    np.testing.assert_array_equal(gb, np.einsum("npqk->k", g))


def test_conv2d_takes_strided_views():
    rng = np.random.default_rng(2)
    x, w = whole(rng, 2, 6, 9, 8)[:, ::-1, ::2, 1:4], whole(rng, 5, 3, 3, 6)[::2, :, :, ::2]
    expected = reference.conv2d_fprop(x.copy(), w.copy(), padding=(1, 1))
    np.testing.assert_array_equal(reference.conv2d_fprop(x, w, padding=(1, 1)), expected)
    gy = np.broadcast_to(np.float64(1), expected.shape)
    expected = reference.conv2d_wgrad(x.copy(), gy.copy(), w.shape, padding=(1, 1))
    actual = reference.conv2d_wgrad(x, gy, w.shape, padding=(1, 1))
    np.testing.assert_array_equal(actual[0], expected[0])


def test_relu_keeps_nan_and_never_gives_minus_zero():
    x = np.array([-0.0, 0.0, -1.0, 2.0, NAN, INF, -INF])
    expected = np.array([0.0, 0.0, 0.0, 2.0, NAN, INF, 0.0])
    one, zero = np.ones(1), np.zeros(1)
    column = x.reshape(7, 1)
    eye = np.ones((1, 1, 1, 1))
    # x + -0.0 keeps the sign of a zero, so that relu itself has to mend it
    y = reference.conv2d_fprop(x.reshape(1, 7, 1, 1), eye, -zero, relu=True)
    same_bits(y.ravel(), expected)
    same_bits(reference.linear_fprop(column, one[:, None], -zero, relu=True).ravel(), expected)
    y = reference.batch_norm_inference(column, one, -zero, zero, one, eps=0.0, relu=True)
    same_bits(y.ravel(), expected)
    assert np.signbit(reference.linear_fprop(column, one[:, None])[2, 0])


def test_masks_count_gy_only_where_y_is_positive():
    rng = np.random.default_rng(3)
    x, w, gy = whole(rng, 2, 4, 4, 3), whole(rng, 5, 3, 3, 3), whole(rng, 2, 2, 2, 5)
    y = whole(rng, *gy.shape)
    y.flat[:4] = NAN, -0.0, 0.0, 1e-300
    gy.flat[:3] = NAN, INF, 7.0  # masked away, not multiplied by zero
    masked = np.array([g if v > 0 else 0.0 for g, v in zip(gy.flat, y.flat, strict=True)])
    assert 0 < np.count_nonzero(masked) < masked.size and masked[3] == gy.flat[3]
    masked = masked.reshape(gy.shape)
    expected = reference.conv2d_dgrad(masked, w, x.shape)
    same_bits(reference.conv2d_dgrad(gy, w, x.shape, y=y), expected)
    for a, b in zip(
        reference.conv2d_wgrad(x, gy, w.shape, y=y),
        reference.conv2d_wgrad(x, masked, w.shape),
        strict=True,
    ):
        same_bits(a, b)
    flat, flat_y, v = gy.reshape(-1, 5), y.reshape(-1, 5), whole(rng, 8, 6)
    np.testing.assert_array_equal(
        reference.linear_dgrad(flat, w[:, 0, 0], y=flat_y), masked.reshape(-1, 5) @ w[:, 0, 0]
    )
    gw, gb = reference.linear_wgrad(v, flat, y=flat_y)
    np.testing.assert_array_equal(gw, np.einsum("nk,nc->kc", masked.reshape(-1, 5), v))
    np.testing.assert_array_equal(gb, masked.sum(axis=(0, 1, 2)))


# ----------------------------------------------------------------------- reduce_conv and inception


def test_reduce_conv_halo_is_zero_not_relu_of_the_bias():
    x, one = np.zeros((1, 3, 3, 1)), np.ones(1)
    wr, w = np.ones((1, 1, 1, 1)), np.ones((1, 3, 3, 1))
    y, r = reference.reduce_conv_fprop(x, wr, one, w, None, padding=(1, 1))
    assert (r == 1).all()
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wrong, _ = reference.reduce_conv_fprop(padded, wr, one, w, None)
    assert (wrong == 9).all()  # what a halo of relu(br) would give


@pytest.mark.parametrize(("x_shape", "krs", "stride", "padding"), CONVS)
def test_reduce_conv_equals_loops(x_shape, krs, stride, padding):
    rng = np.random.default_rng(4)
    C, Cr = x_shape[3], 3
    x, wr, br = whole(rng, *x_shape), whole(rng, Cr, 1, 1, C), whole(rng, Cr)
    w, b = whole(rng, *krs, Cr), whole(rng, krs[0])
    y, r = reference.reduce_conv_fprop(x, wr, br, w, b, stride=stride, padding=padding)
    naive_r = np.maximum(naive_conv(x, wr, br, (1, 1), (0, 0))[0], 0)
    np.testing.assert_array_equal(r, naive_r)
    np.testing.assert_array_equal(y, np.maximum(naive_conv(r, w, b, stride, padding)[0], 0))
    g = whole(rng, *y.shape)
    gx, gwr, gbr, gw, gb = reference.reduce_conv_backward(
        g, x, wr, w, r, y, stride=stride, padding=padding
    )
    _, gr, naive_gw = naive_conv(r, w, b, stride, padding, g * (y > 0))
    _, naive_gx, naive_gwr = naive_conv(x, wr, br, (1, 1), (0, 0), gr * (r > 0))
    for actual, expected in ((gx, naive_gx), (gwr, naive_gwr), (gw, naive_gw)):
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(gbr, (gr * (r > 0)).sum(axis=(0, 1, 2)))
    np.testing.assert_array_equal(gb, (g * (y > 0)).sum(axis=(0, 1, 2)))


@pytest.mark.parametrize("x_shape", [(1, 1, 1, 3), (2, 3, 5, 3), (1, 7, 4, 3), (0, 3, 3, 3)])
def test_inception_is_its_four_branches(x_shape):
    rng = np.random.default_rng(5)
    x, weights = whole(rng, *x_shape), module_weights(rng, whole)
    w1, b1, wr3, br3, w3, b3, wr5, br5, w5, b5, wp, bp = weights
    y, (r3, r5, pooled, argmax) = reference.inception_fprop(x, weights)
    np.testing.assert_array_equal(pooled, naive_pool(x, (3, 3), (1, 1), (1, 1), False)[0])
    for cut, source, w, b, pad in (
        (slice(0, 2), x, w1, b1, 0),
        (slice(2, 7), r3, w3, b3, 1),
        (slice(7, 10), r5, w5, b5, 2),
        (slice(10, 14), pooled, wp, bp, 0),
        (None, x, wr3, br3, 0),
        (None, x, wr5, br5, 0),
    ):
        expected = np.maximum(naive_conv(source, w, b, (1, 1), (pad, pad))[0], 0)
        actual = y[..., cut] if cut else r3 if w is wr3 else r5
        np.testing.assert_array_equal(actual, expected)
    assert y.shape == (*x_shape[:3], 14) and argmax.dtype == np.uint8


# --------------------------------------------------------------------------------------- pooling

POOLS = [  # (H, W), kernel, stride, padding
    ((1, 1), (1, 1), (1, 1), (0, 0)),
    ((1, 1), (3, 3), (2, 2), (1, 1)),
    ((3, 3), (2, 2), (2, 2), (1, 1)),  # ceil mode: a third window would start past the image
    ((7, 7), (3, 3), (2, 2), (0, 0)),
    ((8, 6), (3, 3), (2, 2), (0, 0)),
    ((5, 8), (3, 2), (2, 3), (1, 1)),
    ((6, 5), (1, 3), (3, 1), (0, 1)),  # stride beyond the kernel
    ((4, 9), (1, 7), (1, 2), (0, 3)),
    ((8, 8), (7, 7), (1, 1), (3, 3)),
    ((4, 6), (4, 6), (5, 5), (3, 5)),
]


def naive_windows(n, k, step, pad, ceil_mode):
    """[start, stop) of each window along one axis, until the far padding is covered (or fails)."""
    windows = []
    for start in range(-pad, n + pad, step):
        whole_inside = start + k <= n + pad
        covered = bool(windows) and windows[-1][1] >= n + pad
        if whole_inside or (ceil_mode and not covered and start < n):
            windows.append((start, start + k))
    return windows


def naive_pool(x, kernel, stride, padding, ceil_mode):
    """(max, argmax, mean over the image's cells, mean over cells up to the padding) by loops."""
    (N, H, W, C), (R, S) = x.shape, kernel
    rows, columns = (
        naive_windows(n, k, s, p, ceil_mode)
        for n, k, s, p in zip((H, W), kernel, stride, padding, strict=True)
    )
    shape = (N, len(rows), len(columns), C)
    top, argmax = np.zeros(shape), np.zeros(shape, np.uint8)
    valid, padded = np.zeros(shape), np.zeros(shape)
    for n, (p, (i0, i1)), (q, (j0, j1)), c in product(
        range(N), enumerate(rows), enumerate(columns), range(C)
    ):
        best, total, cells = None, 0.0, 0
        for r, s in product(range(R), range(S)):
            i, j = i0 + r, j0 + s
            if 0 <= i < H and 0 <= j < W:
                v, cells = x[n, i, j, c], cells + 1
                total += v
                if best is None or v > best or (math.isnan(v) and not math.isnan(best)):
                    best, argmax[n, p, q, c] = v, r * S + s
        counted = (min(i1, H + padding[0]) - i0) * (min(j1, W + padding[1]) - j0)
        top[n, p, q, c], valid[n, p, q, c] = best, total / cells
        padded[n, p, q, c] = total / counted
    return top, argmax, valid, padded


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("image", "kernel", "stride", "padding"), POOLS)
def test_pools_equal_loops_and_scatter_back(image, kernel, stride, padding, ceil_mode):
    rng = np.random.default_rng(6)
    x = rng.integers(-2, 3, (2, *image, 3)).astype(np.float64)  # ties abound
    geometry = (kernel, stride, padding)
    _, _, valid, padded = naive_pool(x, *geometry, ceil_mode)
    for include, expected in ((True, padded), (False, valid)):
        y = reference.avg_pool_fprop(x, *geometry, ceil_mode, include)
        close(y, expected)
        g = whole(rng, *y.shape)
        gx = reference.avg_pool_dgrad(g, x.shape, *geometry, include)
        assert inner(y, g) == pytest.approx(inner(x, gx), rel=1e-12, abs=1e-12)
    for odd in (None, -0.0, NAN, -INF):
        z = x.copy()
        if odd is not None:
            z[rng.random(z.shape) < 0.4] = odd
        y, argmax = reference.max_pool_fprop(z, *geometry, ceil_mode)
        top, first, _, _ = naive_pool(z, *geometry, ceil_mode)
        same_bits(y, top)
        np.testing.assert_array_equal(argmax, first)
        assert argmax.dtype == np.uint8
        g, expected = whole(rng, *y.shape), np.zeros_like(x)
        for n, p, q, c in np.ndindex(y.shape):
            r, s = divmod(int(argmax[n, p, q, c]), kernel[1])
            i, j = p * stride[0] - padding[0] + r, q * stride[1] - padding[1] + s
            expected[n, i, j, c] += g[n, p, q, c]
        np.testing.assert_array_equal(
            reference.max_pool_dgrad(g, argmax, x.shape, *geometry), expected
        )


def test_ceil_mode_extents_of_the_networks():
    extents = []
    for n, k, s, p in ((112, 3, 2, 0), (56, 3, 2, 0), (28, 3, 2, 0), (14, 3, 2, 0), (7, 3, 1, 1)):
        y, _ = reference.max_pool_fprop(np.ones((1, n, n, 1)), (k, k), (s, s), (p, p), True)
        extents.append(y.shape[1:3])
    assert extents == [(56, 56), (28, 28), (14, 14), (7, 7), (7, 7)]
    y, _ = reference.max_pool_fprop(np.ones((1, 112, 7, 1)), (3, 7), (2, 7))
    assert y.shape == (1, 55, 1, 1)


def test_max_pool_windows_of_255_taps_and_nan_order():
    x = np.zeros((1, 15, 17, 2), np.float32)
    x[0, -1, -1], x[0, 3, 4, 1], x[0, 9, 9, 1] = 1, NAN, NAN
    y, argmax = reference.max_pool_fprop(x, (15, 17), (1, 1))
    assert argmax.ravel().tolist() == [254, 3 * 17 + 4] and y[0, 0, 0, 0] == 1
    assert reference.avg_pool_fprop(np.ones((1, 16, 16, 1)), (16, 16), (1, 1)).item() == 1
    with pytest.raises(ValueError, match=r"max_pool_fprop: kernel is \(16, 16\), .* <= 255"):
        reference.max_pool_fprop(np.ones((1, 16, 16, 1)), (16, 16), (1, 1))
