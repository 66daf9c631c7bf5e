"""A 7x7 convolution of stride 2 by Winograd, as 4x4 over the four phases of the map.

Forward and filter gradient: exact within rounding on integers, the bits of the plain twin, errors,
refusals, bfloat16, and who takes it.
"""

import ml_dtypes
import numpy as np
import pytest
from pyinception.kernels import reference
from winograd_cases import GUARD, guarded, inside, packed, same, untouched

import pyinception as pi
from pyinception.layers import Conv2d

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

LEVELS = core.levels()
SEVEN, TWO = (7, 7), (2, 2)

# (N, H, W, C), K, padding: odd and even sides, less than a tile, several; images in two groups.
SHAPES = [((1, 224, 224, 3), 64, (3, 3)), ((2, 23, 18, 3), 33, (3, 3)), ((3, 9, 30, 1), 16, (2, 0)),
          ((1, 7, 7, 4), 5, (0, 0)), ((2, 12, 11, 17), 70, (1, 6)), ((1, 1, 2, 5), 20, (9, 8)),
          ((0, 9, 9, 3), 8, (3, 3)), ((5, 226, 223, 3), 17, (3, 2))]  # fmt: skip


def sides(shape, padding):
    return tuple((e + 2 * b - 7) // 2 + 1 for e, b in zip(shape[1:3], padding, strict=True))


def forward(x, w, b, padding, algorithm="winograd", level="", threads=1, relu=False):
    k = w.shape[0] if w.ndim == 4 else b.shape[0]
    blank = np.full((x.shape[0], *sides(x.shape, padding), k), np.nan, np.float32)
    wide, y = inside(blank)
    y[...] = np.nan
    core.conv_fprop(inside(x)[1], w, b, y, SEVEN, TWO, padding, relu, algorithm, level, threads)
    assert (wide.view(np.uint32) == GUARD).sum() == wide.size - y.size
    return y.copy()


def gradient(x, gy, y, padding, algorithm="winograd", level="", threads=1):
    k, c = gy.shape[3], x.shape[3]
    (gw, bands), (gb, more) = guarded(k, *SEVEN, c), guarded(k)
    x, gy, y = (None if a is None else inside(a)[1] for a in (x, gy, y))
    core.conv_wgrad(x, gy, y, gw, gb, SEVEN, TWO, padding, algorithm, level, threads)
    assert untouched(*bands, *more)
    return gw, gb


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("shape", "k", "padding"), SHAPES)
def test_integers_within_rounding(shape, k, padding, level):
    """The filter has a seventh row and column, the phases' eighth must not count."""
    rng = np.random.default_rng(6)
    x = rng.integers(-2, 3, shape).astype(np.float32)
    w = rng.integers(-1, 2, (k, 7, 7, shape[3])).astype(np.float32)
    b = rng.integers(-9, 10, k).astype(np.float32)
    expected = reference.conv2d_fprop(x, w, b, stride=TWO, padding=padding, relu=True)
    for threads in (1, 2):
        got = forward(x, w, b, padding, level=level, threads=threads, relu=True)
        np.testing.assert_array_equal(np.rint(got), expected)
        assert abs(got - expected).max(initial=0) < 1e-2
    same(forward(x, packed(w, "fprop", "winograd", level), b, padding, level=level, relu=True), got)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("shape", "k", "padding"), SHAPES[1:7])
def test_gradients_of_integers_within_rounding(shape, k, padding, level):
    rng = np.random.default_rng(7)
    x = rng.integers(-2, 3, shape).astype(np.float32)
    gy = rng.integers(-2, 3, (shape[0], *sides(shape, padding), k)).astype(np.float32)
    y = rng.integers(-1, 2, gy.shape).astype(np.float32)
    w_shape = k, 7, 7, shape[3]
    expected, sums = reference.conv2d_wgrad(x, gy, w_shape, stride=TWO, padding=padding, y=y)
    for threads in (1, 3):
        gw, gb = gradient(x, gy, y, padding, level=level, threads=threads)
        np.testing.assert_array_equal(np.rint(gw), expected)
        np.testing.assert_array_equal(gb, sums)
        assert abs(gw - expected).max(initial=0) < 1e-3


def real(shape, k, padding):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    w = (rng.standard_normal((k, 7, 7, shape[3])) / 7 / shape[3] ** 0.5).astype(np.float32)
    b = rng.standard_normal(k).astype(np.float32)
    gy = rng.standard_normal((shape[0], *sides(shape, padding), k)).astype(np.float32)
    y = rng.standard_normal(gy.shape).astype(np.float32)
    y.flat[::97], y.flat[::89] = np.nan, -0.0
    return x, w, b, gy, y


@pytest.mark.parametrize(("shape", "k", "padding"), [*SHAPES[1:6], ((3, 40, 37, 3), 64, (3, 3))])
def test_the_same_bits_by_every_way(shape, k, padding):
    """Plain twin, levels, threads, packed filters, a sample alone."""
    x, w, b, gy, y = real(shape, k, padding)
    whole, gradients = forward(x, w, b, padding), gradient(x, gy, y, padding)
    for level in LEVELS:
        fast, plain = (packed(w, "fprop", a, level) for a in ("winograd", "winograd_plain"))
        same(fast, plain)
        same(forward(x, w, b, padding, "winograd_plain", level), whole)
        for got, ours in zip(
            gradient(x, gy, y, padding, "winograd_plain", level), gradients, strict=True
        ):
            same(got, ours)
        for threads in (2, 3):
            same(forward(x, w, b, padding, level=level, threads=threads), whole)
            for got, ours in zip(
                gradient(x, gy, y, padding, level=level, threads=threads), gradients, strict=True
            ):
                same(got, ours)
    for i in range(shape[0]):
        same(forward(x[i : i + 1], w, b, padding), whole[i : i + 1])


def test_images_go_through_in_groups():
    """Five large images are more than one group: each has the bits that it has alone."""
    x, w, b, _, _ = real((5, 226, 223, 3), 17, (3, 2))
    whole = forward(x, w, b, (3, 2), threads=2)
    for i in (0, 2, 3, 4):
        same(forward(x[i : i + 1], w, b, (3, 2)), whole[i : i + 1])


@pytest.mark.parametrize("channels", [3, 48])
def test_error_against_float64(channels):
    """At most 6e-6 of the largest output or gradient; terms of both signs."""
    x, w, b, gy, _ = real((2, 40, 37, channels), 64, (3, 3))
    wide = [a.astype(np.float64) for a in (x, w, b, gy)]
    expected = reference.conv2d_fprop(*wide[:3], stride=TWO, padding=(3, 3))
    error = abs(forward(x, w, b, (3, 3)) - expected).max() / abs(expected).max()
    assert error < 6e-6
    expected, sums = reference.conv2d_wgrad(wide[0], wide[3], w.shape, stride=TWO, padding=(3, 3))
    gw, gb = gradient(x, gy, None, (3, 3))
    assert abs(gw - expected).max() < 6e-6 * abs(expected).max()
    assert abs(gb - sums).max() < 1e-6 * abs(gy).sum(axis=(0, 1, 2)).max()


def test_what_lies_outside_takes_no_part():
    """A NaN reaches the windows that cover it, the tiles of those, and no others."""
    x, w, b, _, _ = real((1, 40, 40, 3), 16, (3, 3))
    clean = forward(x, w, b, (3, 3))
    x[0, 20, 21, 1] = np.nan  # windows of outputs 9 to 11 (rows) and 9 to 12 (columns)
    got = forward(x, w, b, (3, 3))
    assert np.isnan(got[0, 9:12, 9:13]).all()
    clear = np.ones((20, 20), bool)
    clear[8:12, 8:16] = False
    same(got[0][clear], clean[0][clear])


@pytest.mark.parametrize("shape", [(2, 23, 18, 3), (1, 31, 16, 6)])
def test_bfloat16_is_float32_rounded_once(shape):
    x, w, b, _, _ = real(shape, 40, (3, 3))
    x16, w16 = (a.astype(ml_dtypes.bfloat16) for a in (x, w))
    how = {"stride": 2, "padding": 3, "algorithm": "winograd"}
    expected = pi.conv2d(x16.astype(np.float32), w16.astype(np.float32), b, **how)
    same(pi.conv2d(x16, w16, b, **how), expected.astype(ml_dtypes.bfloat16))
    same(pi.conv2d(x16, w16, b, stride=2, padding=3), expected.astype(ml_dtypes.bfloat16))


def test_reduce_conv_over_phases_of_the_reduced_map():
    """Forward with and without a saved map, in groups, and all gradients; gx and gr go direct."""
    rng = np.random.default_rng(4)

    def integers(*shape):
        return rng.integers(-1, 2, shape).astype(np.float32)

    x, wr, w = integers(5, 60, 41, 6), integers(20, 1, 1, 6), integers(17, 7, 7, 20)
    y, r = reference.reduce_conv_fprop(x, wr, None, w, None, stride=TWO, padding=(3, 3))
    got, saved = np.empty_like(y), np.empty_like(r)
    how = SEVEN, TWO, (3, 3)
    core.reduce_conv_fprop(x, wr, None, w, None, got, None, *how, "winograd", "", 2)
    np.testing.assert_array_equal(np.rint(got), y)
    again = np.empty_like(y)
    core.reduce_conv_fprop(x, wr, None, w, None, again, saved, *how, "auto", "", 2)
    same(again, got)
    same(saved, r)
    gy = integers(*y.shape)
    expected = reference.reduce_conv_backward(gy, x, wr, w, r, y, stride=TWO, padding=(3, 3))
    outs = [np.full_like(a, np.nan) for a in expected]
    core.reduce_conv_backward(gy, x, wr, w, r, y, *outs, *how, False, "auto", "", 2)
    for a, e in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(np.rint(a), e)
    with pytest.raises(NotImplementedError, match=r"'winograd' has no gradient of x for 7x7"):
        core.reduce_conv_backward(gy, x, wr, w, r, y, *outs, *how, False, "winograd", "", 2)


def test_auto_takes_it_at_stride_2_alone():
    x, w, b, gy, _ = real((2, 23, 18, 3), 33, (3, 3))
    same(forward(x, w, b, (3, 3), "auto"), forward(x, w, b, (3, 3)))
    same(gradient(x, gy, None, (3, 3), "auto")[0], gradient(x, gy, None, (3, 3))[0])
    assert (forward(x, w, b, (3, 3), "auto") != forward(x, w, b, (3, 3), "direct")).any()
    for stride in (1, 3, (1, 2)):
        got, direct = (
            pi.conv2d(x, w, b, stride=stride, padding=3, algorithm=a) for a in ("auto", "direct")
        )
        same(got, direct)


def test_the_gradient_of_x_stays_direct():
    x, w, _, gy, _ = real((2, 23, 18, 3), 33, (3, 3))
    gx = np.empty_like(x)
    where = SEVEN, TWO, (3, 3), False
    core.conv_dgrad(gy, w, None, gx, *where, "auto")
    direct = np.empty_like(x)
    core.conv_dgrad(gy, w, None, direct, *where, "direct")
    same(gx, direct)
    assert packed(w, "dgrad", "auto").size == packed(w, "dgrad", "direct").size
    gx[...] = 7
    with pytest.raises(NotImplementedError, match=r"conv_dgrad: .*'winograd' has no gradient of x"):
        core.conv_dgrad(gy, w, None, gx, *where, "winograd")
    assert (gx == 7).all()


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 3)])
def test_refuses_other_strides(stride):
    x, w, b, _, _ = real((1, 19, 19, 3), 16, (0, 0))
    p, q = (12 // s + 1 for s in stride)
    y = np.full((1, p, q, 16), 7, np.float32)
    how = SEVEN, stride, (0, 0), False
    with pytest.raises(NotImplementedError, match=r"conv_fprop: .* needs stride 2 for 7x7"):
        core.conv_fprop(x, w, b, y, *how, "winograd")
    with pytest.raises(ValueError, match=r"packed for 'winograd', which needs stride 2 for 7x7"):
        core.conv_fprop(x, packed(w, "fprop", "winograd"), b, y, *how, "auto")
    assert (y == 7).all()
    with pytest.raises(pi.BackendError, match=r"needs stride 2 for \(7, 7\)"):
        pi.conv2d(x, w, b, stride=stride, algorithm="winograd")


def test_a_session_and_a_step_of_training_take_it():
    """conv1 of GoogLeNet: the packed filter of a session, and what `explain` says of it."""
    layer = Conv2d(3, 64, 7, stride=2, padding=3)
    (call,) = pi.explain(layer, (1, 56, 56, 3))
    assert "7x7 Winograd" in call.kernels["fprop"]
    x = np.random.default_rng(0).standard_normal((1, 56, 56, 3)).astype(np.float32)
    same(pi.Session(layer, x.shape)(x).copy(), layer(x).data)
    w, b = (layer.state_dict()[name] for name in ("weight", "bias"))
    same(layer(x).data, pi.conv2d(x, w, b, stride=2, padding=3, algorithm="winograd"))
