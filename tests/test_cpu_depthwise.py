"""Depthwise convolution and the residual sum on the compiled core: exact, in any layout."""

import numpy as np
import pytest
from child import passes
from op_runs import COUNT, Out, call, core, map_shape, per_level, real, run, same, u, whole, within
from pyinception.kernels import reference


def problems(seed):
    """(rng, x shape, multiplier, (R, S), stride, padding), awkward ones first."""
    rng = np.random.default_rng(seed)
    yield rng, (2, 1, 1, 17), 1, (1, 1), (1, 1), (0, 0)
    yield rng, (1, 19, 19, 728 // 8), 1, (3, 3), (1, 1), (1, 1)  # tile's tail, moved back
    yield rng, (1, 2, 3, 5), 1, (2, 2), (1, 3), (4, 5)  # windows wholly in the padding
    yield rng, (1, 9, 4, 33), 1, (3, 5), (2, 3), (1, 2)  # filter wider than the map
    yield rng, (2, 16, 14, 3), 8, (7, 7), (2, 2), (3, 3)  # GoogLeNet's separable stem
    yield rng, (1, 5, 6, 2), 37, (3, 3), (1, 1), (1, 1)  # more filters a channel than lanes
    yield rng, (1, 4, 9, 16), 1, (1, 1), (3, 4), (0, 0)  # pixels that no window sees
    for _ in range(COUNT):
        shape, kernel = map_shape(rng, 12), rng.integers(1, 6, 2)
        padding = [int(rng.integers(0, k + 1)) for k in kernel]
        kernel = [
            min(int(k), n + 2 * p) for k, n, p in zip(kernel, shape[1:3], padding, strict=True)
        ]
        stride = tuple(map(int, rng.integers(1, 4, 2)))
        multiplier = int(rng.choice([1, 1, 1, 2, 5]))
        yield rng, shape, multiplier, tuple(kernel), stride, tuple(padding)


@per_level
def test_fprop_is_exact(level):
    for rng, shape, multiplier, kernel, stride, padding in problems(1):
        x, w = whole(rng, *shape), whole(rng, shape[3] * multiplier, *kernel, 1)
        b, relu = whole(rng, len(w)) if rng.integers(2) else None, bool(rng.integers(2))
        y = reference.depthwise_conv2d_fprop(x, w, b, stride=stride, padding=padding, relu=relu)
        scalars = kernel, stride, padding, relu
        (got,), _ = run(
            "depthwise_conv_fprop", [x, w, b, Out(y.shape)], scalars, level, rng, alone=(0, 3)
        )
        same(got, y)


@per_level
def test_gradients_are_exact(level):
    for rng, shape, multiplier, kernel, stride, padding in problems(2):
        x, w = whole(rng, *shape), whole(rng, shape[3] * multiplier, *kernel, 1)
        where = {"stride": stride, "padding": padding}
        gy = whole(rng, *reference.depthwise_conv2d_fprop(x, w, **where).shape)
        y = whole(rng, *gy.shape) if rng.integers(2) else None
        gx = reference.depthwise_conv2d_dgrad(gy, w, shape, y=y, **where)
        alone = (0, 3) if y is None else (0, 2, 3)
        (got,), _ = run(
            "depthwise_conv_dgrad", [gy, w, y, Out(shape)], (kernel, stride, padding, False),
            level, rng, alone=alone,
        )  # fmt: skip
        same(got, gx)
        start = whole(rng, *shape)
        scalars = kernel, stride, padding, True
        (got,), _ = run("depthwise_conv_dgrad", [gy, w, y, Out(shape, start)], scalars, level, rng)
        same(got, start + gx)
        gw, gb = reference.depthwise_conv2d_wgrad(x, gy, w.shape, y=y, **where)
        scalars = kernel, stride, padding
        operands = [x, gy, y, Out(w.shape, dense=True), Out(gb.shape)]
        (got, got_b), _ = run("depthwise_conv_wgrad", operands, scalars, level, rng)
        same(got, gw)
        same(got_b, gb)
        (got,), _ = run("depthwise_conv_wgrad", [*operands[:4], None], scalars, level, rng)
        same(got, gw)


@per_level
@pytest.mark.parametrize("channels", [48, 728])
def test_real_data_within_the_bound_of_one_chain(level, channels):
    rng = np.random.default_rng(3)
    x, w, b = real(rng, 1, 19, 19, channels), real(rng, channels, 3, 3, 1), real(rng, channels)
    wide = [a.astype(np.float64) for a in (x, w, b)]
    y = reference.depthwise_conv2d_fprop(*wide, padding=(1, 1))
    most = reference.depthwise_conv2d_fprop(*map(np.abs, wide), padding=(1, 1))
    scalars = (3, 3), (1, 1), (1, 1), False
    (got,) = call("depthwise_conv_fprop", [x, w, b, Out(y.shape)], scalars, level, "auto", 1, rng)
    within(got, y, 11 * u * most)


def filter_gradient(x, gy, R, padding, level, algorithm="auto", threads=2):
    """(gw, gb) of a filter a channel, R x R."""
    gw, gb = np.empty((x.shape[3], R, R, 1), np.float32), np.empty(x.shape[3], np.float32)
    window = (R, R), (1, 1), (padding, padding)
    core.depthwise_conv_wgrad(x, gy, None, gw, gb, *window, algorithm, level, threads)
    return gw, gb


@per_level
@pytest.mark.parametrize("algorithm", ["auto", "plain"])
def test_filter_gradient_of_a_large_map_within_its_bound(level, algorithm):
    """A sum of n roundings errs by less than n u / (1 - n u) of the terms' magnitudes: a row of 300
    makes a chain, 300 rows an image. On equal terms one chain of 90,000 errs by 13,000 u."""
    x, gy = (np.full((1, 300, 300, 3), value, np.float32) for value in (0.1, 0.3))
    truth = reference.depthwise_conv2d_wgrad(
        x.astype(np.float64), gy.astype(np.float64), (3, 3, 3, 1), padding=(1, 1)
    )
    for got, exact in zip(filter_gradient(x, gy, 3, 1, level, algorithm), truth, strict=True):
        within(got, exact, 600 * u / (1 - 600 * u) * exact)


@per_level
@pytest.mark.parametrize("algorithm", ["auto", "plain"])
def test_filter_gradient_counts_beyond_two_to_the_24(level, algorithm):
    ones = np.ones((1, 4104, 4096, 1), np.float32)
    gw, gb = filter_gradient(ones, ones, 1, 0, level, algorithm)
    assert gw.item() == gb.item() == ones.size > 2**24  # even, so a float32


@per_level
@pytest.mark.parametrize("multiplier", [1, 2])
def test_filter_gradient_of_more_images_than_are_held_at_a_time(level, multiplier):
    """1 MiB of images' sums are held at a time; their order is that of the plain twin."""
    rng = np.random.default_rng(7)
    N = 3 * 2**20 // (728 * multiplier * 10 * 4)
    x, gy = real(rng, N, 3, 2, 728), real(rng, N, 3, 2, 728 * multiplier)
    outputs = [Out((728 * multiplier, 3, 3, 1), dense=True), Out((728 * multiplier,))]
    run("depthwise_conv_wgrad", [x, gy, None, *outputs], ((3, 3), (1, 1), (1, 1)), level, rng)


def test_filter_gradient_workspace_with_a_multiplier():
    """512 images of 2 filters a channel, whose sums are 42 MB, of which 1 MiB is held at a time."""
    passes("""
        x, gy, gw = (np.zeros(s, np.float32) for s in
                     ((512, 1, 1, 1024), (512, 1, 1, 2048), (2048, 3, 3, 1)))
        def after(images):
            core.depthwise_conv_wgrad(x[:images], gy[:images], None, gw, None, (3, 3), (1, 1),
                                      (1, 1), "auto", "", 1)
            return peak()
        x[...], gy[...] = 1, 1
        one = after(1)
        grown = after(512) - one
        assert grown < 8192, f"{grown} KiB"
    """)


@per_level
def test_nan_stays_in_its_windows_and_infinite_weights_off_the_border(level):
    """Taps outside the image take no part: an infinite weight there makes no NaN."""
    rng = np.random.default_rng(4)
    x, w = whole(rng, 1, 6, 7, 40), whole(rng, 40, 3, 3, 1)
    x[0, 2, 3, 5] = np.nan
    w[:, 0] = np.inf
    scalars = (3, 3), (1, 1), (1, 1), True
    (got,), _ = run("depthwise_conv_fprop", [x, w, None, Out(x.shape)], scalars, level, rng)
    assert np.isfinite(got[0, 0]).all()  # its first filter row lies above the image
    assert np.isnan(got[0, 1:4, 2:5, 5]).all()
    assert not np.isnan(got[..., 6:][0, 0]).any()


def sums(rng):
    for shape in [(2, 3, 4, 70), (3, 17), (1, 1, 1, 1), (1, 40, 41, 16), (0, 3, 3, 5), (5, 1)]:
        for _ in range(6):
            yield shape, float(rng.choice([1.0, 0.5, -2.0])), bool(rng.integers(2))


@per_level
def test_add_scaled(level):
    rng = np.random.default_rng(5)
    for shape, scale, relu in sums(rng):
        a, b, gy = whole(rng, *shape), whole(rng, *shape), whole(rng, *shape)
        y = reference.add_scaled_fprop(a, b, scale=scale, relu=relu)
        (got,), _ = run("add_scaled_fprop", [a, b, Out(shape)], (scale, relu), level, rng)
        same(got, y)
        (got,), _ = run("add_scaled_fprop", [a, None, Out(shape)], (scale, True), level, rng)
        same(got, reference.add_scaled_fprop(a, None, scale=scale, relu=True))
        mask = y if relu else None
        ga, gb = reference.add_scaled_dgrad(gy, scale=scale, y=mask)
        both = [gy, mask, Out(shape), Out(shape)]
        (got_a, got_b), _ = run("add_scaled_dgrad", both, (scale,), level, rng)
        same(got_a, ga)
        same(got_b, gb)
        (got,), _ = run("add_scaled_dgrad", [gy, mask, None, Out(shape)], (scale,), level, rng)
        same(got, gb)


@per_level
def test_add_scaled_rounds_as_numpy_does(level):
    rng = np.random.default_rng(6)
    a, b = real(rng, 2, 5, 6, 33), real(rng, 2, 5, 6, 33)
    y = reference.add_scaled_fprop(a, b, scale=0.17, relu=True)
    (got,), _ = run("add_scaled_fprop", [a, b, Out(a.shape)], (0.17, True), level, rng)
    same(got, y)


def test_errors():
    f = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    x, w, window = f(2, 6, 6, 4), f(8, 3, 3, 1), ((3, 3), (1, 1), (1, 1))
    fprop, dgrad = core.depthwise_conv_fprop, core.depthwise_conv_dgrad
    wgrad, add, grad = core.depthwise_conv_wgrad, core.add_scaled_fprop, core.add_scaled_dgrad
    y = f(2, 6, 6, 8)
    cases = [
        (lambda: fprop(x, f(6, 3, 3, 1), None, f(2, 6, 6, 6), *window, False), "multiple of C = 4"),
        (lambda: fprop(x, f(8, 3, 3, 2), None, y, *window, False), "2 input channels a filter"),
        (lambda: fprop(x, w, None, f(2, 6, 5, 8), *window, False), r"y has shape \(2, 6, 5, 8\)"),
        (lambda: fprop(x, w, f(7), y, *window, False), r"b has shape \(7\)|b has shape \(7,\)"),
        (lambda: fprop(x, w.reshape(-1), None, y, *window, False), r"w has rank 1"),
        (lambda: fprop(x, w, None, x, *window, False), "y has shape|overlaps"),
        (lambda: fprop(f(2, 1, 1, 4), w, None, y, (3, 3), (1, 1), (0, 0), False), "larger than"),
        (lambda: dgrad(y, w, f(2, 6, 6, 4), x, *window, False), "y has shape"),
        (lambda: dgrad(y, f(8, 3, 3, 2), None, x, *window, False), "a filter, expected 1"),
        (lambda: wgrad(x, y, None, f(8, 3, 3, 2), None, *window), "a filter, expected 1"),
        (lambda: wgrad(x, y, None, f(8, 3, 3, 1), f(4), *window), "gb has shape"),
        (lambda: add(x, f(2, 6, 6, 5), f(2, 6, 6, 4), 1.0, True), "b has shape"),
        (lambda: add(x, None, f(2, 6, 6, 4), 1.0, False), "b is missing"),
        (lambda: add(x, x, x, 1.0, False), "y overlaps"),
        (lambda: grad(x, y, f(2, 6, 6, 4), None, 1.0), "y has shape"),
    ]  # fmt: skip
    for refused, text in cases:
        with pytest.raises(ValueError, match=text):
            refused()
    with pytest.raises(TypeError, match="y is missing"):
        add(x, x, None, 1.0, False)


@pytest.mark.parametrize("algorithm", ["winograd", "winograd_plain"])
def test_winograd_is_refused(algorithm):
    """Its products of a pixel are summed over channels, of which a filter here has one."""
    x, w = np.ones((1, 5, 5, 16), np.float32), np.ones((16, 3, 3, 1), np.float32)
    window, y = ((3, 3), (1, 1), (1, 1)), np.full(x.shape, 7, np.float32)
    gw = np.full(w.shape, 7, np.float32)
    for name, into, refused in (
        ("fprop", y, lambda a: core.depthwise_conv_fprop(x, w, None, y, *window, False, a)),
        ("dgrad", y, lambda a: core.depthwise_conv_dgrad(x, w, None, y, *window, False, a)),
        ("wgrad", gw, lambda a: core.depthwise_conv_wgrad(x, x, None, gw, None, *window, a)),
    ):
        text = f"depthwise_conv_{name}: algorithm 'winograd' needs a convolution that sums over"
        with pytest.raises(NotImplementedError, match=text):
            refused(algorithm)
        assert (into == 7).all()
        for taken in ("auto", "direct", "plain"):
            refused(taken)
        assert (into != 7).any()
        into[...] = 7
