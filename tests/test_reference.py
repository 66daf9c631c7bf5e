"""The NumPy reference against the same formulas written another way.

Plain loops that never touch a padded pixel, einsum over sliding windows, adjoint identities on
integers (exact in float64), central differences, published vectors. Cases start from the awkward.
"""

import inspect
import math
from itertools import product

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from pyinception.kernels import reference

NAN, INF = math.nan, math.inf


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


def same_bits(actual, expected):
    """Equal, NaN where NaN, and -0.0 apart from +0.0."""
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected))


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


def module_weights(rng, fill, C=3, K=(2, 5, 3, 4), reduced=(3, 2)):
    shapes = [(K[0], 1, 1, C), (reduced[0], 1, 1, C), (K[1], 3, 3, reduced[0])]
    shapes += [(reduced[1], 1, 1, C), (K[2], 5, 5, reduced[1]), (K[3], 1, 1, C)]
    return tuple(fill(rng, *shape) for w in shapes for shape in (w, w[:1]))


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


# ------------------------------------------------------------------- normalisation, linear, loss


@pytest.mark.parametrize(("C", "size"), [(1, 5), (3, 5), (8, 1), (9, 3), (4, 11)])
def test_lrn_equals_loops(C, size):
    x = np.random.default_rng(7).normal(size=(2, 2, 3, C))
    expected = np.zeros_like(x)
    for n, h, w, c in np.ndindex(x.shape):
        window = range(max(0, c - size // 2), min(C, c + size // 2 + 1))
        scale = 1.5 + 0.3 / size * math.fsum(x[n, h, w, i] ** 2 for i in window)
        expected[n, h, w, c] = x[n, h, w, c] / scale**0.6
    close(reference.lrn_fprop(x, size, 0.3, 0.6, 1.5), expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 2), (7, 3)])
def test_batch_norm_equals_loops(shape):
    rng = np.random.default_rng(8)
    x, gamma, beta = real(rng, *shape) + 3, real(rng, shape[-1]), real(rng, shape[-1])
    y, mean, var = reference.batch_norm_fprop(x, gamma, beta, eps=1e-3)
    for c in range(shape[-1]):
        values = x[..., c].ravel().tolist()
        m = math.fsum(values) / len(values)
        v = math.fsum((a - m) ** 2 for a in values) / len(values)
        assert (mean[c], var[c]) == (pytest.approx(m, 1e-12), pytest.approx(v, 1e-12))
        expected = [gamma[c] * (a - m) / math.sqrt(v + 1e-3) + beta[c] for a in values]
        close(y[..., c].ravel(), np.array(expected))
    given = reference.batch_norm_inference(x, gamma, beta, mean, var, eps=1e-3, relu=True)
    np.testing.assert_array_equal(given, np.maximum(y, 0))


def test_linear_and_its_adjoints():
    rng = np.random.default_rng(9)
    x, w, b, g = whole(rng, 3, 5), whole(rng, 4, 5), whole(rng, 4), whole(rng, 3, 4)
    np.testing.assert_array_equal(reference.linear_fprop(x, w, b), np.einsum("nc,kc->nk", x, w) + b)
    gw, gb = reference.linear_wgrad(x, g)
    y = reference.linear_fprop(x, w)
    assert inner(y, g) == inner(x, reference.linear_dgrad(g, w)) == inner(w, gw)
    np.testing.assert_array_equal(gb, g[0] + g[1] + g[2])


def test_softmax_cross_entropy_equals_the_textbook_and_survives_large_logits():
    logits = np.random.default_rng(10).normal(size=(4, 6)) * 3
    labels = np.array([0, 5, 2, 2], np.int32)
    loss, probs = reference.softmax_cross_entropy_fprop(logits, labels)
    for n, k in enumerate(labels):
        total = math.fsum(math.exp(z) for z in logits[n])
        assert loss[n] == pytest.approx(math.log(total) - logits[n, k], 1e-12)
        close(probs[n], np.array([math.exp(z) / total for z in logits[n]]))
    far, _ = reference.softmax_cross_entropy_fprop(np.array([[1e4, -1e4]]), np.array([1]))
    assert far.item() == 2e4
    g = np.array([1.0, -2.0, 0.0, 0.5])
    glogits = reference.softmax_cross_entropy_dgrad(probs, labels, g)
    close(glogits, g[:, None] * (probs - (np.arange(6) == labels[:, None])))


# --------------------------------------------------------------------------------------- dropout


def naive_philox(counter, key):
    for i in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        k = [(key[0] + i * 0x9E3779B9) % 2**32, (key[1] + i * 0xBB67AE85) % 2**32]
        counter = [
            b // 2**32 ^ counter[1] ^ k[0],
            b % 2**32,
            a // 2**32 ^ counter[3] ^ k[1],
            a % 2**32,
        ]
    return counter


@pytest.mark.parametrize(
    ("counter", "key", "words"),  # Random123, tests/kat_vectors: philox4x32 10
    [
        ("0" * 32, "0" * 16, "6627e8d5e169c58dbc57ac4c9b00dbd8"),
        ("f" * 32, "f" * 16, "408f276d41c83b0ea20bc7c66d5451fd"),
        (
            "243f6a8885a308d313198a2e03707344",
            "a4093822299f31d0",
            "d16cfe0994fdcceb5001e42024126ea1",
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    counter, key, words = (
        [int(text[i : i + 8], 16) for i in range(0, len(text), 8)] for text in (counter, key, words)
    )
    assert reference.philox4x32(counter, key).tolist() == words == naive_philox(counter, key)
    both = reference.philox4x32([[counter], [[1, 2, 3, 4]]], [key, [5, 6]])
    assert both.shape == (2, 2, 4) and both.dtype == np.uint32 and both[0, 0].tolist() == words
    assert both[1, 1].tolist() == naive_philox([1, 2, 3, 4], [5, 6])


@pytest.mark.parametrize(("shape", "p"), [((3, 1, 1, 1), 0.4), ((2, 3, 3, 3), 0.7), ((4, 9), 0.5)])
def test_dropout_mask_is_its_formula(shape, p):
    where = {"seed": 2**63 + 12345, "step": 7, "layer": 0xDEADBEEF}
    keep = reference.dropout_mask(shape, p, **where, first_sample=5)
    for n, sample in enumerate(keep.reshape(shape[0], -1)):
        for e, kept in enumerate(sample):
            counter = [e // 4, 5 + n, where["step"], where["layer"]]
            word = naive_philox(counter, [where["seed"] % 2**32, where["seed"] >> 32])[e % 4]
            assert kept == (word >= round(p * 2**32))
    later = reference.dropout_mask((1, *shape[1:]), p, **where, first_sample=4 + shape[0])
    np.testing.assert_array_equal(later, keep[-1:])  # a sample's mask is its slot's alone


def test_dropout_scales_what_it_keeps():
    where = {"seed": 1, "step": 0, "layer": 3}
    x = np.full((20, 1000), NAN, np.float32)
    keep = reference.dropout_mask(x.shape, 0.4, **where)
    assert abs(keep.mean() - 0.6) < 5 * math.sqrt(0.24 / keep.size)
    x[keep] = 3
    same_bits(
        reference.dropout(x, 0.4, **where), np.where(keep, np.float32(3) / np.float32(0.6), 0)
    )
    assert reference.dropout_mask(x.shape, 0, **where).all()
    assert reference.dropout_mask(x.shape, 1 - 2**-40, **where).sum() == 0
    for name in where:
        other = reference.dropout_mask(x.shape, 0.5, **{**where, name: 99})
        assert 0.4 < np.mean(other == reference.dropout_mask(x.shape, 0.5, **where)) < 0.6


# ------------------------------------------------------------- gradients along a random direction


def conv_gradients(g, x, w, b, **options):
    y = reference.conv2d_fprop(x, w, b, relu=True, **options)
    gx = reference.conv2d_dgrad(g, w, x.shape, y=y, **options)
    return gx, *reference.conv2d_wgrad(x, g, w.shape, y=y, **options)


def reduce_conv_gradients(g, x, wr, br, w, b):
    y, r = reference.reduce_conv_fprop(x, wr, br, w, b, padding=(1, 1))
    return reference.reduce_conv_backward(g, x, wr, w, r, y, padding=(1, 1))


def inception_gradients(g, x, *weights):
    y, saved = reference.inception_fprop(x, weights)
    gx, grads = reference.inception_backward(g, x, weights, y, saved)
    return gx, *grads


def batch_norm_gradients(g, x, gamma, beta):
    y, mean, var = reference.batch_norm_fprop(x, gamma, beta, eps=1e-2, relu=True)
    return reference.batch_norm_dgrad(g, x, gamma, mean, var, eps=1e-2, y=y)


def linear_gradients(g, x, w, b):
    y = reference.linear_fprop(x, w, b, relu=True)
    return reference.linear_dgrad(g, w, y=y), *reference.linear_wgrad(x, g, y=y)


LABELS = np.array([2, 0, 3])
LRN = {"size": 3, "alpha": 0.7, "beta": 0.6, "k": 1.2}
STRIDED = {"stride": (2, 1), "padding": (2, 1)}
GRADIENTS = {  # function, its gradients by backward functions, shapes of what it depends on
    "conv2d": (
        lambda x, w, b: reference.conv2d_fprop(x, w, b, relu=True, **STRIDED),
        lambda g, *a: conv_gradients(g, *a, **STRIDED),
        [(2, 5, 4, 3), (4, 3, 2, 3), (4,)],
    ),
    "reduce_conv": (
        lambda *a: reference.reduce_conv_fprop(*a, padding=(1, 1))[0],
        reduce_conv_gradients,
        [(2, 4, 5, 3), (4, 1, 1, 3), (4,), (5, 3, 3, 4), (5,)],
    ),
    "inception": (
        lambda x, *w: reference.inception_fprop(x, w)[0],
        inception_gradients,
        [(2, 4, 3, 3), *(w.shape for w in module_weights(np.random.default_rng(0), real))],
    ),
    "batch_norm": (
        lambda *a: reference.batch_norm_fprop(*a, eps=1e-2, relu=True)[0],
        batch_norm_gradients,
        [(3, 2, 2, 4), (4,), (4,)],
    ),
    "batch_norm of rows": (
        lambda *a: reference.batch_norm_fprop(*a, eps=1e-2, relu=True)[0],
        batch_norm_gradients,
        [(6, 3), (3,), (3,)],
    ),
    "linear": (
        lambda *a: reference.linear_fprop(*a, relu=True),
        linear_gradients,
        [(3, 4), (5, 4), (5,)],
    ),
    "lrn": (
        lambda x: reference.lrn_fprop(x, **LRN),
        lambda g, x: [reference.lrn_dgrad(g, x, **LRN)],
        [(2, 2, 3, 7)],
    ),
    "lrn wider than C": (
        lambda x: reference.lrn_fprop(x, 9, 0.7),
        lambda g, x: [reference.lrn_dgrad(g, x, 9, 0.7)],
        [(2, 2, 3, 3)],
    ),
    "softmax_cross_entropy": (
        lambda z: reference.softmax_cross_entropy_fprop(z, LABELS)[0],
        lambda g, z: [
            reference.softmax_cross_entropy_dgrad(
                reference.softmax_cross_entropy_fprop(z, LABELS)[1], LABELS, g
            )
        ],
        [(3, 4)],
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRADIENTS)
def test_backward_is_the_derivative(name, seed):
    function, gradients, shapes = GRADIENTS[name]
    rng = np.random.default_rng(seed)
    inputs = [real(rng, *shape) for shape in shapes]
    direction = [real(rng, *shape) for shape in shapes]
    y, step = function(*inputs), 1e-6
    g = real(rng, *y.shape)
    ends = [
        function(*(a + sign * step * d for a, d in zip(inputs, direction, strict=True)))
        for sign in (1, -1)
    ]
    if name.split()[0] in ("conv2d", "reduce_conv", "inception", "batch_norm", "linear"):
        assert 0.1 < np.mean(y > 0) < 0.9
        for end in ends:  # no kink between the ends
            np.testing.assert_array_equal(end > 0, y > 0)
    numeric = (inner(g, ends[0]) - inner(g, ends[1])) / (2 * step)
    exact = gradients(g, *inputs)
    assert [e.shape for e in exact] == [tuple(shape) for shape in shapes]
    analytic = sum(inner(e, d) for e, d in zip(exact, direction, strict=True))
    assert numeric == pytest.approx(analytic, rel=1e-6, abs=1e-6) and abs(analytic) > 1e-3


# -------------------------------------------------------------- every op: dtype, batch 0, inputs


def calls(n, dtype, seed=11):
    """name -> (function, arguments, options) for every op, on a batch of n."""
    rng = np.random.default_rng(seed)

    def a(*shape):
        return rng.normal(size=shape).astype(dtype)

    x, w, b, wr = a(n, 5, 6, 3), a(4, 3, 3, 3), a(4), a(3, 1, 1, 3)
    gy, pad = a(n, 5, 6, 4), {"padding": (1, 1)}
    y, r = reference.reduce_conv_fprop(x, wr, None, w, b, **pad)
    pool = ((3, 2), (2, 2), (1, 1))
    pooled, argmax = reference.max_pool_fprop(x, *pool)
    gpool, labels = a(*pooled.shape), rng.integers(0, 4, n)
    v, m = gy.reshape(n * 30, 4), a(4, 7)
    probs = reference.softmax_cross_entropy_fprop(gy[:, 0, 0], labels)[1]
    weights = tuple(u.astype(dtype) for u in module_weights(rng, real))
    ym, saved = reference.inception_fprop(x, weights)
    eps, where = {"eps": 1e-3}, {"seed": 3, "step": 4, "layer": 5}
    table = {
        "conv2d_fprop": ((x, w, b), {"relu": True, **pad}),
        "conv2d_dgrad": ((gy, w, x.shape), {"y": y, **pad}),
        "conv2d_wgrad": ((x, gy, w.shape), {"y": y, **pad}),
        "reduce_conv_fprop": ((x, wr, a(3), w, b), pad),
        "reduce_conv_backward": ((gy, x, wr, w, r, y), pad),
        "max_pool_fprop": ((x, *pool), {}),
        "max_pool_dgrad": ((gpool, argmax, x.shape, *pool), {}),
        "avg_pool_fprop": ((x, *pool), {}),
        "avg_pool_dgrad": ((gpool, x.shape, *pool), {"count_include_pad": False}),
        "lrn_fprop": ((x, np.int64(3), np.float64(0.1), np.float64(0.75), np.float64(2)), {}),
        "lrn_dgrad": ((gy, gy, np.int64(3), np.float64(0.1), np.float64(0.75)), {}),
        "linear_fprop": ((v, m.T.copy(), a(7)), {"relu": True}),
        "linear_dgrad": ((v, m), {"y": v}),
        "linear_wgrad": ((v, v), {}),
        "softmax_cross_entropy_fprop": ((gy[:, 0, 0], labels), {}),
        "softmax_cross_entropy_dgrad": ((probs, labels, a(n)), {}),
        "batch_norm_fprop": ((gy, b, b), {"eps": np.float64(1e-3)}),
        "batch_norm_inference": ((gy, b, b, b, b * b), {"relu": True, **eps}),
        "batch_norm_dgrad": ((gy, gy, b, b, b * b), {"y": y, **eps}),
        "dropout": ((x, np.float64(0.5)), where),
        "dropout_mask": ((x.shape, 0.5), where),
        "inception_fprop": ((x, weights), {}),
        "inception_backward": ((a(*ym.shape), x, weights, ym, saved), {}),
    }
    return {name: (getattr(reference, name), *rest) for name, rest in table.items()}


def arrays(value):
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in arrays(part)]
    return arrays(list(value.values())) if isinstance(value, dict) else []


OPS = list(calls(1, np.float64))


def test_the_table_of_calls_names_every_public_function():
    public = {
        name
        for name, value in vars(reference).items()
        if inspect.isfunction(value) and value.__module__ == reference.__name__ and name[0] != "_"
    }
    assert public == {*OPS, "philox4x32"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPS)
def test_every_op_keeps_dtype_and_inputs_and_takes_an_empty_batch(name, dtype):
    function, args, options = calls(2, dtype)[name]
    given = arrays([args, options])
    before = [array.tobytes() for array in given]
    results = arrays(function(*args, **options))
    assert [array.tobytes() for array in given] == before
    for result in results:
        assert result.dtype in (dtype, np.uint8, bool) and np.isfinite(result).all()
        assert np.count_nonzero(result) > 0.1 * result.size and result.flags.c_contiguous
        assert not any(np.shares_memory(result, array) for array in given)
    function, args, options = calls(0, dtype)[name]
    for empty, result in zip(arrays(function(*args, **options)), results, strict=True):
        assert empty.dtype == result.dtype and empty.ndim == result.ndim
        if empty.shape == result.shape:  # a weight's gradient, or a statistic
            assert not empty.any()
        else:
            assert empty.shape == (0, *result.shape[1:])


def test_float32_sums_in_float32():
    big = np.array([2.0**24, 1, 1], np.float32)  # float64 would add the ones
    row, ones = big.reshape(1, 1, 3, 1), np.ones((1, 1, 3, 1), np.float32)
    assert reference.conv2d_fprop(row, ones).item() == 2**24
    assert reference.conv2d_fprop(row.astype(float), ones.astype(float)).item() == 2**24 + 2
    average = reference.avg_pool_fprop(row, (1, 3), (1, 1)).item()
    assert average == np.float32(2**24) / np.float32(3) != np.float32(2**24 + 2) / np.float32(3)
    with np.errstate(over="ignore"):  # squares overflow
        assert reference.lrn_fprop(np.full((1, 1, 1, 1), 1e30, np.float32)).item() == 0
        x, one = np.array([[-1e30], [1e30]], np.float32), np.ones(1, np.float32)
        assert reference.batch_norm_fprop(x, one, one, eps=1e-5)[2].item() == INF


# ---------------------------------------------------------------------------------------- errors


def Z(*shape):
    return np.zeros(shape)


X, W, WR, GY, X4 = Z(2, 5, 5, 3), Z(4, 3, 3, 3), Z(6, 1, 1, 3), Z(2, 3, 3, 4), (2, 5, 5, 4)
TAPS, LABELS_3 = np.full(GY.shape, 9, np.uint8), np.array([0, 3])
MODULE = module_weights(np.random.default_rng(0), real)
PAIR, WHERE = ", expected a pair of ints in [", {"seed": 0, "step": 0, "layer": 0}
ERRORS = [  # function, the message after its name, arguments, options
    (
        "conv2d_fprop",
        "w has shape (4, 3, 3, 2), expected (K, R, S, C) = (4, 3, 3, 3)",
        X,
        Z(4, 3, 3, 2),
    ),
    ("conv2d_fprop", "b has shape (5,), expected (K) = (4,)", X, W, Z(5)),
    ("conv2d_fprop", "x has shape (5, 5, 3), expected (N, H, W, C)", X[0], W),
    ("conv2d_fprop", "w has shape (4, 0, 3, 3), expected (K, R, S, C)", X, Z(4, 0, 3, 3)),
    ("conv2d_fprop", "x has shape (2, 0, 5, 3), expected (N, H, W, C)", Z(2, 0, 5, 3), W),
    ("conv2d_fprop", "filter extent is 7, expected at most 5", X, Z(4, 7, 1, 3)),
    (
        "conv2d_fprop",
        "filter extent is 8, expected at most 7",
        X,
        Z(4, 1, 8, 3),
        {"padding": (9, 1)},
    ),
    ("conv2d_fprop", f"stride is (0, 1){PAIR}1,", X, W, {"stride": (0, 1)}),
    ("conv2d_fprop", f"stride is 1{PAIR}1,", X, W, {"stride": 1}),
    ("conv2d_fprop", f"padding is (1, -1){PAIR}0,", X, W, {"padding": (1, -1)}),
    ("conv2d_fprop", f"padding is (1.0, 1){PAIR}0,", X, W, {"padding": (1.0, 1)}),
    ("conv2d_fprop", "w is float32, expected an array of float64", X, W.astype("f4")),
    ("conv2d_fprop", "x is int64, expected an array of float32 or float64", X.astype(int), W),
    ("conv2d_fprop", "x is list, expected an array of float32 or float64", X.tolist(), W),
    ("conv2d_fprop", "x is NoneType, expected an array of float32 or float64", None, W),
    (
        "conv2d_dgrad",
        "gy has shape (2, 3, 3, 4), expected (N, P, Q, K) = (2, 3, 4, 4)",
        GY,
        W,
        (2, 5, 6, 3),
    ),
    ("conv2d_dgrad", "x_shape has shape (2, 5, -5, 3), expected", GY, W, (2, 5, -5, 3)),
    ("conv2d_dgrad", "y has shape (1, 3, 3, 4), expected", GY, W, X.shape, {"y": GY[:1]}),
    ("conv2d_wgrad", "w_shape has shape (4, 3, 3), expected (K, R, S, C)", X, GY, (4, 3, 3)),
    ("reduce_conv_fprop", "expected (K, R, S, Cr) = (4, 3, 3, 6)", X, WR, None, W, None),
    ("reduce_conv_fprop", "expected (Cr, 1, 1, C) = (4, 1, 1, 3)", X, W, None, W, None),
    ("reduce_conv_backward", "r has shape (2, 3, 3, 4)", GY, X, WR, Z(4, 3, 3, 6), GY, GY),
    ("max_pool_fprop", "filter extent is 6, expected at most 5", X, (6, 3), (1, 1)),
    ("max_pool_fprop", "padding is 2, expected less than the kernel", X, (2, 2), (1, 1), (2, 1)),
    ("max_pool_dgrad", "argmax spans [9, 9], expected [0, 9)", GY, TAPS, X4, (3, 3), (1, 1)),
    ("max_pool_dgrad", "argmax is float64, expected an array of uint8", GY, GY, X4, (3, 3), (1, 1)),
    ("avg_pool_dgrad", "expected (N, P, Q, C) = (2, 4, 4, 4)", GY, X4, (2, 2), (1, 1)),
    ("lrn_fprop", "size is 4, expected an odd int in [1,", X, 4),
    ("lrn_dgrad", "size is -1, expected an odd int in [1,", X, X, -1),
    ("linear_fprop", "w has shape (4, 5), expected (K, C) = (4, 3)", Z(2, 3), Z(4, 5)),
    ("softmax_cross_entropy_fprop", "labels spans [0, 3], expected [0, 3)", Z(2, 3), LABELS_3),
    ("softmax_cross_entropy_fprop", "labels spans [-3, 0], expected [0, 3)", Z(2, 3), -LABELS_3),
    ("softmax_cross_entropy_fprop", "labels is float64, expected an array of int8", Z(2, 3), Z(2)),
    (
        "softmax_cross_entropy_dgrad",
        "g has shape (3,), expected (N) = (2,)",
        Z(2, 4),
        LABELS_3,
        Z(3),
    ),
    ("batch_norm_fprop", "beta has shape (4,), expected (C) = (3,)", X, Z(3), Z(4), {"eps": 0.1}),
    ("batch_norm_fprop", "eps is -0.1, expected a number", X, Z(3), Z(3), {"eps": -0.1}),
    ("batch_norm_dgrad", "gy has shape (5, 3)", X[0, 0], X, Z(3), Z(3), Z(3), {"eps": 0.1}),
    ("dropout", "p is 1.0, expected a number in [0, 1)", X, 1.0, WHERE),
    ("dropout", "seed is 18446744073709551616, expected", X, 0.5, WHERE | {"seed": 2**64}),
    ("dropout", "step is -1, expected a number in [0, 4294967296)", X, 0.5, WHERE | {"step": -1}),
    (
        "dropout_mask",
        "first_sample is 4294967295",
        (2, 3),
        0.5,
        WHERE | {"first_sample": 2**32 - 1},
    ),
    ("dropout_mask", "shape has shape (2, 0), expected (N, D1)", (2, 0), 0.5, WHERE),
    ("inception_fprop", "weights has 11 arrays, expected 12", X, MODULE[:11]),
    (
        "inception_fprop",
        "w1 has shape (2, 1, 1, 3), expected (K1, 1, 1, C) = (2, 1, 1, 4)",
        GY,
        MODULE,
    ),
    ("philox4x32", "key has shape (3,), expected (..., 2)", [0] * 4, [0] * 3),
]


@pytest.mark.parametrize("row", ERRORS, ids=lambda row: f"{row[0]}: {row[1]}")
def test_errors_name_function_argument_expected_and_actual(row):
    name, message, *args = row
    options = args.pop() if isinstance(args[-1], dict) else {}
    error = TypeError if "expected an array of" in message else ValueError
    with pytest.raises(error) as caught:
        getattr(reference, name)(*args, **options)
    text = str(caught.value)
    assert text.startswith(f"{name}: ") and message in text and "expected" in text


def test_inception_backward_refuses_another_modules_results():
    y, saved = reference.inception_fprop(X, MODULE)
    with pytest.raises(ValueError, match="inception_backward: y has 13 channels, expected 14"):
        reference.inception_backward(y[..., 1:], X, MODULE, y[..., 1:], saved)
    with pytest.raises(ValueError, match="inception_backward: r3 has shape"):
        reference.inception_backward(y, X, MODULE, y, (saved[1], saved[0], *saved[2:]))
