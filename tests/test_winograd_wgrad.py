"""The filter gradient by Winograd: exact on integers, its bits, its error, its refusals.

On 3x3 filters every step but the last division by nine counts in units of 1/64 (the transpose of
test_winograd.py's transforms), so sparse small integers must meet the reference to the bit.
"""

import numpy as np
import pytest
from pyinception.kernels import reference
from winograd_cases import KERNELS, A, B, G, guarded, inside, same, untouched

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

LEVELS = core.levels()


def run(x, gy, y, kernel, padding, algorithm="winograd", level="", threads=1, bias=True):
    k, c = gy.shape[3], x.shape[3]
    (gw, bands), (gb, more) = guarded(k, *kernel, c), guarded(k)
    x, gy, y = (None if a is None else inside(a)[1] for a in (x, gy, y))
    where = kernel, (1, 1), padding, algorithm, level, threads
    core.conv_wgrad(x, gy, y, gw, gb if bias else None, *where)
    assert untouched(*bands, *more)
    return gw, gb


def bound(x, gy, padding):
    """Largest absolute value that a partial sum of a 3x3 gradient can take, before the division."""
    ph, pw = padding
    n, p, q, _ = gy.shape
    rows, columns = -(-p // 4), -(-q // 4)
    framed = np.zeros((n, 4 * rows + 2, 4 * columns + 2, x.shape[3]))
    view = framed[:, ph : ph + x.shape[1], pw : pw + x.shape[2]]
    view[...] = x[:, : view.shape[1], : view.shape[2]]
    d = np.lib.stride_tricks.sliding_window_view(framed, (6, 6), (1, 2))[:, ::4, ::4]
    v = np.abs(np.einsum("ia,nhwcab,jb->nhwcij", B, d, B))
    g = np.zeros((n, rows, 4, columns, 4, gy.shape[3]))
    g.reshape(n, 4 * rows, 4 * columns, gy.shape[3])[:, :p, :q] = gy
    w = np.abs(np.einsum("ai,nhawbk,bj->nhwkij", A, g, A))
    m = np.einsum("nhwkij,nhwcij->kcij", w, v, optimize=True)
    return 9 * np.einsum("ia,kcij,jb->kcab", abs(G), m, abs(G), optimize=True).max(initial=0)


@pytest.mark.parametrize("seed", range(24))
def test_exact_on_integers(seed):
    rng = np.random.default_rng([seed, 5])
    n = int(rng.integers(1, 4)) if seed else 0
    k, c = (int(rng.choice((1, 3, 15, 16, 17, 31, 33, 48, 70))) for _ in range(2))
    h, w = [(1, 1), (4, 4), (7, 7), (14, 14), (3, 17), (29, 8)][seed % 6]
    if seed >= 12:
        h, w = (int(e) for e in rng.integers(1, 20, 2))
    padding = tuple(int(max(p, 3 - e + 1 >> 1)) for p, e in zip(rng.integers(0, 5, 2), (h, w)))
    p, q = h + 2 * padding[0] - 2, w + 2 * padding[1] - 2

    def sparse(*shape, share):
        return (rng.integers(-1, 2, shape) * (rng.random(shape) < share)).astype(np.float32)

    tiles = n * -(-p // 4) * -(-q // 4)
    x = sparse(n, h, w, c, share=1)
    gy = sparse(n, p, q, k, share=min(1, 6 / max(tiles, 1)))
    y = rng.integers(-1, 3, gy.shape).astype(np.float32) if seed % 2 else None
    masked = gy if y is None else np.where(y > 0, gy, 0)
    assert bound(x, masked, padding) < 2**24 / 64
    expected, sums = reference.conv2d_wgrad(x, gy, (k, 3, 3, c), padding=padding, y=y)
    for level in LEVELS:
        for threads in (1, 3):
            gw, gb = run(x, gy, y, (3, 3), padding, level=level, threads=threads)
            np.testing.assert_array_equal(gw, expected)
            np.testing.assert_array_equal(gb, sums)
        same(run(x, gy, y, (3, 3), padding, level=level, bias=False)[0], gw)
    if tiles and expected.size > 100:
        assert np.count_nonzero(expected) > expected.size // 9


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding", [(0, 0), (4, 3), (9, 8)])
def test_any_padding(kernel, padding):
    """None, less and more than the filter sees, on integers within rounding."""
    padding = tuple(p if r > 1 else 0 for p, r in zip(padding, kernel, strict=True))
    rng = np.random.default_rng(6)
    x = rng.integers(-2, 3, (2, 9, 10, 8)).astype(np.float32)
    p, q = (e + 2 * b - r + 1 for e, b, r in zip((9, 10), padding, kernel, strict=True))
    gy = rng.integers(-2, 3, (2, p, q, 20)).astype(np.float32)
    expected, sums = reference.conv2d_wgrad(x, gy, (20, *kernel, 8), padding=padding)
    gw, gb = run(x, gy, None, kernel, padding)
    np.testing.assert_array_equal(np.rint(gw), expected)
    np.testing.assert_array_equal(gb, sums)
    assert abs(gw - expected).max() < 1e-3


REAL = [((3, 14, 14, 33), 70, (3, 3)), ((5, 29, 29, 5), 20, (3, 3)), ((3, 14, 9, 17), 40, (5, 5)),
        ((3, 17, 6, 33), 33, (1, 7)), ((2, 7, 17, 16), 50, (7, 1)), ((2, 8, 8, 19), 36, (1, 3)),
        ((2, 9, 8, 130), 16, (3, 1))]  # fmt: skip


@pytest.mark.parametrize(("shape", "k", "kernel"), REAL)
def test_the_same_bits_by_every_way(shape, k, kernel):
    """Plain twin, levels and threads: real data, rounded at every step; a mask with NaN in it."""
    rng = np.random.default_rng(1)
    x = np.maximum(rng.standard_normal(shape), 0).astype(np.float32)
    gy = rng.standard_normal((*shape[:3], k)).astype(np.float32)
    y = rng.standard_normal(gy.shape).astype(np.float32)
    y.flat[::97], y.flat[::89] = np.nan, -0.0
    where = x, gy, y, kernel, (kernel[0] // 2, kernel[1] // 2)
    whole = run(*where)
    assert np.count_nonzero(whole[0]) > whole[0].size // 2
    for level in LEVELS:
        for twin, fast in zip(run(*where, "winograd_plain", level), whole, strict=True):
            same(twin, fast)
        for threads in (1, 2, 3, 7):
            for got, fast in zip(run(*where, level=level, threads=threads), whole, strict=True):
                same(got, fast)


@pytest.mark.parametrize("kernel", KERNELS)
def test_error_against_float64(kernel):
    """At most 1.5e-5 of the largest gradient, as forward."""
    rng = np.random.default_rng(2)
    x = np.maximum(rng.standard_normal((2, 28, 27, 48)), 0).astype(np.float32)
    gy = rng.standard_normal((2, 28, 27, 64)).astype(np.float32)
    padding = kernel[0] // 2, kernel[1] // 2
    wide = [a.astype(np.float64) for a in (x, gy)]
    expected, sums = reference.conv2d_wgrad(*wide, (64, *kernel, 48), padding=padding)
    gw, gb = run(x, gy, None, kernel, padding)
    assert np.abs(gw - expected).max() < 1.5e-5 * np.abs(expected).max()
    assert np.abs(gb - sums).max() < 1e-6 * np.abs(gy).sum(axis=(0, 1, 2)).max()


def test_auto_goes_by_the_filter():
    rng = np.random.default_rng(3)
    taken = {}
    for k, c, r in ((4, 3, 3), (32, 17, 3), (32, 16, 5), (16, 12, 5), (16, 16, 7)):
        x, gy = (rng.standard_normal((2, 14, 14, n)).astype(np.float32) for n in (c, k))
        where = x, gy, None, (r, r), (r // 2, r // 2)
        auto = run(*where, "auto")[0]
        ways = ("direct", "winograd") if r < 7 else ("direct",)
        taken[k, c, r] = [a for a in ways if np.array_equal(auto, run(*where, a)[0])]
    direct, winograd = ["direct"], ["winograd"]
    assert taken == {(4, 3, 3): direct, (32, 17, 3): winograd, (32, 16, 5): winograd,
                     (16, 12, 5): direct, (16, 16, 7): direct}  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "stride", "word"),
    [((7, 7), (1, 1), "stride 2"), ((1, 1), (1, 1), "3x3"), ((3, 3), (2, 2), "stride 1")],
)
def test_refuses_what_it_cannot_do(kernel, stride, word):
    x = np.ones((1, 9, 9, 4), np.float32)
    p, q = ((9 - k) // s + 1 for k, s in zip(kernel, stride, strict=True))
    gy, gw = np.ones((1, p, q, 8), np.float32), np.full((8, *kernel, 4), 7, np.float32)
    with pytest.raises(NotImplementedError, match=f"conv_wgrad: .*winograd' needs .*{word}"):
        core.conv_wgrad(x, gy, None, gw, None, kernel, stride, (0, 0), "winograd")
    assert (gw == 7).all()
    core.conv_wgrad(x, gy, None, gw, None, kernel, stride, (0, 0), "auto")
    assert (gw == p * q).all()
