"""Exact-integer tests: every generated case must agree with the reference to the bit.

Operands are small integers whose every partial sum fits 24 bits, so any order of summation gives
one right answer. Cases start from the awkward: 1x1 images, odd extents, C and K beside the vector
lengths, C = H = W, strides, pads larger than needed, batch 0. Outputs are NaN before a call and lie
as a channel slice between guard bands; a case whose output is mostly zero proved little and does
not count. Winograd's filters are multiples of 576, which its transform divides exactly.
"""

from collections import Counter

import numpy as np
import pytest
from pyinception.kernels import reference as ref

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

LEVELS = core.levels()
CHANNELS = (1, 2, 3, 5, 7, 8, 13, 16, 17, 24, 31, 32, 33, 48, 49, 64)
THREADS = (1, 2, 3)
seen: Counter[str] = Counter()


def ints(draw, *shape, low=-3, high=4):
    return draw.integers(low, high, shape).astype(np.float32)


class Guarded:
    """An output map inside a wider buffer: NaN before the call, its surroundings untouched."""

    def __init__(self, shape, left=3, right=2):
        self.buffer = np.full((*shape[:-1], left + shape[-1] + right), np.nan, np.float32)
        self.view = self.buffer[..., left : left + shape[-1]]
        self.bands = self.buffer[..., :left], self.buffer[..., left + shape[-1] :]

    def equals(self, expected):
        intact = all(np.isnan(band).all() for band in self.bands)
        return intact and same_bits(self.view, expected)


def same_bits(actual, expected):
    return np.array_equal(
        np.ascontiguousarray(actual).view(np.uint32), np.ascontiguousarray(expected).view(np.uint32)
    )


def geometry(draw, largest=17):
    """(N, H, W, C, K, R, S, stride, padding) of a convolution that exists."""
    while True:
        n, h, w = int(draw.integers(0, 4)), *map(int, draw.integers(1, largest, 2))
        c, k = int(draw.choice(CHANNELS)), int(draw.choice(CHANNELS))
        if draw.random() < 0.1:
            c = h = w  # nothing tells the axes apart but their order
        r = int(draw.choice((1, 1, 2, 3, 3, 5, 7)))
        s = int(draw.choice((r, r, 1, 3)))
        stride = tuple(map(int, draw.integers(1, 4, 2))) if draw.random() < 0.4 else (1, 1)
        padding = int(draw.integers(0, r + 1)), int(draw.integers(0, s + 1))
        if r <= h + 2 * padding[0] and s <= w + 2 * padding[1]:
            return n, h, w, c, k, r, s, stride, padding


def trusted(name, expected):
    """Counts a case; one whose output is mostly zero does not count."""
    if expected.size and np.count_nonzero(expected) > 0.3 * expected.size:
        seen[name] += 1


@pytest.mark.parametrize("algorithm", ["direct", "plain"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(6))
def test_conv(level, algorithm, seed):
    draw = np.random.default_rng([seed, 1])
    for case in range(16):
        n, h, w, c, k, r, s, stride, padding = geometry(draw)
        where = (r, s), stride, padding
        x, f, b = ints(draw, n, h, w, c), ints(draw, k, r, s, c), ints(draw, k)
        end = algorithm, level, THREADS[case % 3]
        relu = bool(case % 2)
        expected = ref.conv2d_fprop(x, f, b, stride=stride, padding=padding, relu=relu)
        y = Guarded(expected.shape)
        core.conv_fprop(x, f, b, y.view, *where, relu, *end)
        assert y.equals(expected), (case, level, algorithm, x.shape, f.shape, stride, padding)
        trusted("conv", expected)
        wide = ints(draw, *expected.shape[:3], k + 4)
        gy, mask = wide[..., 1 : 1 + k], expected if relu else None
        gx = Guarded(x.shape)
        expected = ref.conv2d_dgrad(gy, f, x.shape, stride=stride, padding=padding, y=mask)
        core.conv_dgrad(gy, f, mask, gx.view, *where, False, *end)
        assert gx.equals(expected), (case, "dgrad", x.shape, f.shape, stride, padding)
        base = ints(draw, *x.shape)
        total = base.copy()
        core.conv_dgrad(gy, f, mask, total, *where, True, *end)
        assert same_bits(total, base + expected), (case, "dgrad accumulate")
        trusted("conv", expected)
        gw, gb = np.full_like(f, np.nan), np.full_like(b, np.nan)
        want = ref.conv2d_wgrad(x, gy, f.shape, stride=stride, padding=padding, y=mask)
        core.conv_wgrad(x, gy, mask, gw, gb, *where, *end)
        assert same_bits(gw, want[0]), (case, "wgrad", x.shape, f.shape, stride, padding)
        assert same_bits(gb, want[1]), (case, "gb", x.shape, f.shape, stride, padding)
        trusted("conv", want[0])


@pytest.mark.parametrize("algorithm", ["direct", "plain"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(5))
def test_reduce_conv(level, algorithm, seed):
    draw = np.random.default_rng([seed, 2])
    for case in range(16):
        n, h, w, c, k, r, s, stride, padding = geometry(draw, 14)
        cr = int(draw.choice((1, 5, 16, 24, 33, 48)))
        where = (r, s), stride, padding
        x, wr, br = (
            ints(draw, n, h, w, c, low=-2, high=3),
            ints(draw, cr, 1, 1, c, low=-2),
            ints(draw, cr),
        )
        f, b = ints(draw, k, r, s, cr, low=-2, high=3), ints(draw, k)
        y0, r0 = ref.reduce_conv_fprop(x, wr, br, f, b, stride=stride, padding=padding)
        end = algorithm, level, THREADS[case % 3]
        fused, unfused, r1 = Guarded(y0.shape), Guarded(y0.shape), Guarded(r0.shape)
        core.reduce_conv_fprop(x, wr, br, f, b, fused.view, None, *where, *end)
        core.reduce_conv_fprop(x, wr, br, f, b, unfused.view, r1.view, *where, *end)
        assert fused.equals(y0), (case, x.shape, wr.shape, f.shape, stride, padding)
        assert unfused.equals(y0), (case, "unfused")
        assert r1.equals(r0), (case, "r")
        trusted("reduce_conv", y0)
        gy = ints(draw, *y0.shape, low=-1, high=2)
        want = ref.reduce_conv_backward(gy, x, wr, f, r0, y0, stride=stride, padding=padding)
        got = [np.full_like(a, np.nan) for a in want]
        core.reduce_conv_backward(gy, x, wr, f, r0, y0, *got, *where, False, *end)
        for name, a, e in zip(("gx", "gwr", "gbr", "gw", "gb"), got, want, strict=True):
            assert same_bits(a, e), (case, name, x.shape, wr.shape, f.shape, stride, padding)
            trusted("reduce_conv", e)


def module_weights(draw, c, k1, r3, k3, r5, k5, kp):
    shapes = ((k1, 1, c), (r3, 1, c), (k3, 3, r3), (r5, 1, c), (k5, 5, r5), (kp, 1, c))
    weights = []
    for k, size, channels in shapes:
        weights += [ints(draw, k, size, size, channels, low=-1, high=2), ints(draw, k, low=-2)]
    return tuple(weights)


@pytest.mark.parametrize("algorithm", ["direct", "plain"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_inception(level, algorithm, seed):
    draw = np.random.default_rng([seed, 3])
    for case in range(6):
        n, h, w, c = int(draw.integers(0, 5)), *map(int, draw.integers(1, 12, 2)), 7 + 5 * case
        weights = module_weights(draw, c, *map(int, draw.choice((1, 5, 8, 16, 17, 24, 33), 6)))
        x = ints(draw, n, h, w, c, low=-1, high=3)
        y0, saved0 = ref.inception_fprop(x, weights)
        end = algorithm, level, THREADS[case % 3]
        y, plain = Guarded(y0.shape), Guarded(y0.shape)
        saved = tuple(np.full_like(a, 255 if a.dtype == np.uint8 else np.nan) for a in saved0)
        core.inception_fprop(x, weights, y.view, None, *end)
        core.inception_fprop(x, weights, plain.view, saved, *end)
        assert y.equals(y0), (case, x.shape)
        assert plain.equals(y0), (case, x.shape, "with saved maps")
        for a, e in zip(saved, saved0, strict=True):
            assert np.array_equal(a, e), (case, "saved")
        trusted("inception", y0)
        gy = ints(draw, *y0.shape, low=-1, high=2)
        gx0, grads0 = ref.inception_backward(gy, x, weights, y0, saved0)
        gx, grads = np.full_like(gx0, np.nan), tuple(np.full_like(g, np.nan) for g in grads0)
        core.inception_backward(gy, x, weights, y0, saved0, gx, grads, *end)
        assert same_bits(gx, gx0), (case, "gx", x.shape)
        for i, (a, e) in enumerate(zip(grads, grads0, strict=True)):
            assert same_bits(a, e), (case, "grad", i, x.shape)
            trusted("inception", e)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(4))
def test_winograd(level, seed):
    draw = np.random.default_rng([seed, 4])
    for case in range(10):
        n, h, w = int(draw.integers(0, 4)), *map(int, draw.integers(1, 17, 2))
        c, k = int(draw.choice(CHANNELS)), int(draw.choice(CHANNELS))
        padding = (1, 1) if case % 2 else tuple(map(int, draw.integers(0, 3, 2)))
        if 3 > h + 2 * padding[0] or 3 > w + 2 * padding[1]:
            continue
        where = (3, 3), (1, 1), padding
        x, b = ints(draw, n, h, w, c, low=-1, high=2), 576 * ints(draw, k)
        f = 576 * ints(draw, k, 3, 3, c, low=-1, high=2)
        end = "winograd", level, THREADS[case % 3]
        expected = ref.conv2d_fprop(x, f, b, padding=padding, relu=True)
        y = Guarded(expected.shape)
        core.conv_fprop(x, f, b, y.view, *where, True, *end)
        assert y.equals(expected), (case, x.shape, f.shape, padding)
        trusted("winograd", expected)
        gy = ints(draw, *expected.shape, low=-1, high=2)
        want = ref.conv2d_dgrad(gy, f, x.shape, padding=padding, y=expected)
        gx = Guarded(x.shape)
        core.conv_dgrad(gy, f, expected, gx.view, *where, False, *end)
        assert gx.equals(want), (case, "dgrad", x.shape, f.shape, padding)
        trusted("winograd", want)


@pytest.mark.parametrize("algorithm", ["direct", "plain"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(4))
def test_pools(level, algorithm, seed):
    draw = np.random.default_rng([seed, 5])
    for case in range(14):
        n, h, w = int(draw.integers(0, 4)), *map(int, draw.integers(1, 17, 2))
        c, size = int(draw.choice(CHANNELS)), tuple(map(int, draw.integers(1, 5, 2)))
        stride = tuple(map(int, draw.integers(1, 4, 2)))
        padding = tuple(int(draw.integers(0, s)) for s in size)
        if size[0] > h + 2 * padding[0] or size[1] > w + 2 * padding[1]:
            continue
        ceil, end = bool(case % 2), (algorithm, level, THREADS[case % 3])
        x = ints(draw, n, h, w, c, low=-8, high=9)
        y0, argmax0 = ref.max_pool_fprop(x, size, stride, padding, ceil_mode=ceil)
        y, argmax = Guarded(y0.shape), np.full_like(argmax0, 255)
        core.max_pool_fprop(x, y.view, argmax, size, stride, padding, *end)
        assert y.equals(y0), (case, x.shape, size, stride, padding, ceil)
        assert np.array_equal(argmax, argmax0), (case, "argmax")
        trusted("pool", y0)
        gy = ints(draw, *y0.shape)
        want = ref.max_pool_dgrad(gy, argmax0, x.shape, size, stride, padding)
        gx = Guarded(x.shape)
        core.max_pool_dgrad(gy, argmax0, gx.view, size, stride, padding, *end)
        assert gx.equals(want), (case, "max dgrad", x.shape, size, stride, padding, ceil)
        # Divisors that are powers of two keep averages exact.
        if size[0] * size[1] in (1, 2, 4, 8, 16):
            e = ref.avg_pool_fprop(x, size, stride, padding, ceil_mode=False)
            y = Guarded(e.shape)
            core.avg_pool_fprop(x, y.view, size, stride, padding, True, *end)
            assert y.equals(e), (case, "avg", x.shape, size, stride, padding)
            trusted("pool", e)


@pytest.mark.parametrize("algorithm", ["direct", "plain"])
@pytest.mark.parametrize("level", LEVELS)
def test_linear(level, algorithm):
    draw = np.random.default_rng(6)
    for case in range(30):
        n, c, k = int(draw.integers(0, 40)), int(draw.choice(CHANNELS)), int(draw.choice(CHANNELS))
        x, w, b = ints(draw, n, c), ints(draw, k, c), ints(draw, k)
        end = algorithm, level, THREADS[case % 3]
        y0 = ref.linear_fprop(x, w, b, relu=True)
        y = np.full_like(y0, np.nan)
        core.linear_fprop(x, w, b, y, True, *end)
        assert same_bits(y, y0), (case, n, c, k)
        trusted("linear", y0)
        gy, gx = ints(draw, n, k), np.full_like(x, np.nan)
        core.linear_dgrad(gy, w, y0, gx, *end)
        assert same_bits(gx, ref.linear_dgrad(gy, w, y=y0)), (case, "gx")
        gw, gb = np.full_like(w, np.nan), np.full_like(b, np.nan)
        core.linear_wgrad(x, gy, y0, gw, gb, *end)
        want = ref.linear_wgrad(x, gy, y=y0)
        assert same_bits(gw, want[0]) and same_bits(gb, want[1]), (case, n, c, k)
        trusted("linear", want[0])


def test_layout_of_equal_extents():
    """C = H = W: only the order of the axes says which is which."""
    import pyinception as pyi

    draw = np.random.default_rng(7)
    for case in range(20):
        e = int(draw.integers(2, 9))
        x, w, b = ints(draw, 2, e, e, e), ints(draw, e, e, e, e)[:, :3, :3, :], ints(draw, e)
        if w.shape[1] < 3:
            continue
        expected = ref.conv2d_fprop(x, w, b, padding=(1, 1))
        assert same_bits(pyi.conv2d(x, w, b, padding=1, layout="NHWC"), expected)
        nchw = pyi.conv2d(
            np.ascontiguousarray(x.transpose(0, 3, 1, 2)),
            np.ascontiguousarray(w.transpose(0, 3, 1, 2)), b, padding=1, layout="NCHW",
        )  # fmt: skip
        assert same_bits(nchw, expected.transpose(0, 3, 1, 2)), case
        trusted("layout", expected)


def test_enough_cases_were_compared():
    """At least 2,000 outputs, most of them not zero, when the whole file has run."""
    if len(seen) < 7:
        pytest.skip("only part of the file was run")
    assert sum(seen.values()) >= 2000, seen
    assert min(seen.values()) >= 15, seen
