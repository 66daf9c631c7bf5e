"""bfloat16 maps on the CPU: one rounding where a result is stored, float32 between.

Exact sums of small integers are rounded once, so the expected bits follow from NumPy alone; on
real data every level, the plain twin and any way of cutting the work agree to the bit.
"""

import copy

import ml_dtypes
import numpy as np
import pytest

import pyinception as pyi
from pyinception import bench, session, tracing
from pyinception.backend import core, reference
from pyinception.layers import fold_batch_norms
from pyinception.ops.weights import InceptionWeights
from pyinception.prepack import Format, prepack

conv2d, reduce_conv2d, inception = pyi.conv2d, pyi.reduce_conv2d, pyi.inception
max_pool2d, avg_pool2d, lrn = pyi.max_pool2d, pyi.avg_pool2d, pyi.lrn
BF16 = np.dtype(ml_dtypes.bfloat16)
LEVELS = core().levels()
ROUNDING = 2.0**-8  # of one store, relative: eight bits, to nearest


def whole(draw: np.random.Generator, *shape: int, reach: int = 3) -> np.ndarray:
    return draw.integers(-reach, reach + 1, shape).astype(BF16)


def real(draw: np.random.Generator, *shape: int) -> np.ndarray:
    return draw.standard_normal(shape).astype(BF16)


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def bits(array: np.ndarray) -> np.ndarray:
    assert array.dtype == BF16
    return array.view(np.uint16)


# (H, W, C, K, (R, S), stride, padding): whole pairs and odd channels, both sides of a vector, taps
# merged and not, two chunks and more.
CASES = [
    (5, 7, 16, 32, (1, 1), (1, 1), (0, 0)),
    (6, 5, 6, 40, (3, 3), (1, 1), (1, 1)),
    (9, 8, 3, 64, (7, 7), (2, 2), (3, 3)),
    (6, 6, 5, 7, (5, 5), (1, 1), (2, 2)),
    (7, 6, 34, 33, (3, 3), (2, 1), (1, 0)),
    (4, 4, 1, 1, (2, 3), (1, 2), (0, 1)),
    (3, 4, 700, 17, (1, 1), (1, 1), (0, 0)),
    (1, 1, 2, 3, (1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[2]}-{c[3]}-{c[4][0]}x{c[4][1]}")
@pytest.mark.parametrize("relu", [False, True])
def test_exact_sums_are_rounded_once(case: tuple, relu: bool) -> None:
    h, w, c, k, (r, s), stride, padding = case
    draw = np.random.default_rng(1)
    x, f = whole(draw, 2, h, w, c), whole(draw, k, r, s, c)
    b = draw.integers(-9, 10, k).astype(np.float32)
    exact = reference().conv2d_fprop(
        wide(x), wide(f), wide(b), relu=relu, stride=stride, padding=padding
    )
    want = exact.astype(np.float32).astype(BF16)
    assert np.abs(exact).max() < 2**24 and (want != 0).mean() > 0.2
    ways = ("direct", "plain") if stride == (2, 2) and r == 7 else ("auto", "direct", "plain")
    for algorithm in ways:  # `auto` takes Winograd for a first layer
        y = conv2d(x, f, b, stride=stride, padding=padding, relu=relu, algorithm=algorithm)
        np.testing.assert_array_equal(bits(y), bits(want), err_msg=algorithm)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[2]}-{c[3]}-{c[4][0]}x{c[4][1]}")
def test_levels_twin_threads_and_batch_agree_to_the_bit(case: tuple) -> None:
    h, w, c, k, kernel, stride, padding = case
    draw = np.random.default_rng(2)
    x, f, b = real(draw, 3, h, w, c), real(draw, k, *kernel, c), real(draw, k).astype(np.float32)
    where = {"stride": stride, "padding": padding}
    how = {**where, "algorithm": "direct"}
    y = conv2d(x, f, b, **how)
    np.testing.assert_array_equal(bits(conv2d(x, f, b, algorithm="plain", **where)), bits(y))
    np.testing.assert_array_equal(bits(conv2d(x[1:2], f, b, **how)), bits(y[1:2]))
    for level in LEVELS:
        for threads in (1, 3):
            with pyi.using(cpu_level=level, threads=threads):
                np.testing.assert_array_equal(bits(conv2d(x, f, b, **how)), bits(y))
    # Each store rounds by at most half a unit; sums err by far less.
    exact = reference().conv2d_fprop(wide(x), wide(f), wide(b), **where)
    spread = reference().conv2d_fprop(abs(wide(x)), abs(wide(f)), abs(wide(b)), **where)
    bound = ROUNDING * np.abs(exact) + 2.0**-23 * kernel[0] * kernel[1] * (c + 2) * spread
    assert (np.abs(wide(y) - exact) <= bound).all()


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 7), (3, 1)])
@pytest.mark.parametrize(("c", "k"), [(16, 40), (33, 17)])
def test_winograd_is_the_one_of_float32_rounded_once(
    kernel: tuple[int, int], c: int, k: int
) -> None:
    draw = np.random.default_rng(9)
    frame, f, b = real(draw, 2, 9, 14, c + 3), real(draw, k, *kernel, c), np.ones(k, np.float32)
    x = frame[..., 2 : 2 + c]  # pixels an odd number of elements apart, too
    how = {"padding": (kernel[0] // 2, kernel[1] // 2), "relu": True}
    in_float32 = [a.astype(np.float32) for a in (x, f)]
    for level in LEVELS:
        with pyi.using(cpu_level=level, threads=2):
            want = conv2d(*in_float32, b, algorithm="winograd", **how).astype(BF16)
            assert (want != 0).mean() > 0.2
            target = np.full((2, 9, 14, k + 5), np.nan, BF16)
            for algorithm in ("winograd", "auto"):
                conv2d(x, f, b, algorithm=algorithm, out=target[..., 3 : 3 + k], **how)
                np.testing.assert_array_equal(bits(target[..., 3 : 3 + k]), bits(want))
                assert np.isnan(wide(target[..., :3])).all()
                assert np.isnan(wide(target[..., 3 + k :])).all()
                form = Format(*f.shape, algorithm=algorithm, level=level, dtype="bfloat16")
                y = conv2d(x, prepack(f, form), b, **how)
                np.testing.assert_array_equal(bits(y), bits(want))


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5)])
def test_winograd_errs_as_direct_does(kernel: tuple[int, int]) -> None:
    """Of one store's rounding the transforms' error is a hundredth: 2e-5 beside 2^-9."""
    draw = np.random.default_rng(10)
    x, f = np.maximum(real(draw, 1, 14, 14, 96), 0), real(draw, 64, *kernel, 96)
    half = kernel[0] // 2
    exact = reference().conv2d_fprop(wide(x), wide(f), padding=(half, half))

    def error(algorithm: str) -> float:
        y = conv2d(x, f, padding=half, algorithm=algorithm)
        return float(np.sqrt(np.mean((wide(y) - exact) ** 2)))

    assert 0 < error("winograd") < 1.05 * error("direct")
    y = np.full((1, 14, 14, 64), 7, BF16)
    with pytest.raises(NotImplementedError, match="'winograd' in plain loops needs float32"):
        where = kernel, (1, 1), (half, half), False, "winograd_plain"
        core().conv_fprop(x, f, None, y, *where)
    assert (y == 7).all()


def test_slices_at_odd_places_and_prepacked_filters() -> None:
    draw = np.random.default_rng(3)
    frame, f, b = real(draw, 2, 5, 5, 31), real(draw, 20, 3, 3, 8), np.zeros(20, np.float32)
    x = frame[..., 3:11]
    want = conv2d(np.ascontiguousarray(x), f, b, padding=1)
    target = np.full((2, 5, 5, 27), np.nan, BF16)
    conv2d(x, f, b, padding=1, out=target[..., 5:25])
    np.testing.assert_array_equal(bits(target[..., 5:25]), bits(want))
    assert np.isnan(wide(target[..., :5])).all() and np.isnan(wide(target[..., 25:])).all()
    # An odd count of channels between even strides: what lies behind the last one is not read.
    even = np.full((2, 5, 5, 32), np.nan, BF16)
    even[..., 3:10] = x[..., :7]
    want_odd = conv2d(np.ascontiguousarray(x[..., :7]), f[..., :7], b, padding=1)
    np.testing.assert_array_equal(
        bits(conv2d(even[..., 3:10], f[..., :7], b, padding=1)), bits(want_odd)
    )
    packed = prepack(f, Format(20, 3, 3, 8, dtype="bfloat16"))
    assert packed.dtype == BF16
    np.testing.assert_array_equal(bits(conv2d(x, packed, b, padding=1)), bits(want))


@pytest.mark.parametrize(("c", "reduced", "k"), [(16, 6, 24), (32, 48, 40), (7, 5, 9)])
def test_the_fused_branch_is_its_two_convolutions(c: int, reduced: int, k: int) -> None:
    draw = np.random.default_rng(4)
    x, wr, w = real(draw, 2, 9, 8, c), real(draw, reduced, 1, 1, c), real(draw, k, 5, 5, reduced)
    br, b = real(draw, reduced).astype(np.float32), real(draw, k).astype(np.float32)
    first = conv2d(x, wr, br, relu=True)
    want = conv2d(first, w, b, padding=2, relu=True)
    for level in LEVELS:
        with pyi.using(cpu_level=level):
            np.testing.assert_array_equal(bits(reduce_conv2d(x, wr, br, w, b)), bits(want))
            y, r = reduce_conv2d(x, wr, br, w, b, return_reduced=True)
            np.testing.assert_array_equal(bits(y), bits(want))
            np.testing.assert_array_equal(bits(r), bits(first))


@pytest.mark.parametrize("widths", [(10, 6, 16, 5, 8, 7), (9, 18, 33, 17, 40, 7)])
def test_a_module_is_its_seven_steps(widths: tuple[int, ...]) -> None:
    """The second by Winograd, at odd offsets."""
    draw = np.random.default_rng(5)
    shapes = [(1, 20), (1, 20), (3, widths[1]), (1, 20), (5, widths[3]), (1, 20)]
    parts: list[np.ndarray] = []
    for k, (size, c) in zip(widths, shapes, strict=True):
        parts += [real(draw, k, size, size, c), real(draw, k).astype(np.float32)]
    w1, b1, wr3, br3, w3, b3, wr5, br5, w5, b5, wp, bp = parts
    x = real(draw, 3, 7, 6, 20)
    y = inception(x, InceptionWeights(*parts))
    want = [
        conv2d(x, w1, b1, relu=True),
        reduce_conv2d(x, wr3, br3, w3, b3),
        reduce_conv2d(x, wr5, br5, w5, b5),
        conv2d(max_pool2d(x, 3, 1, 1), wp, bp, relu=True),
    ]
    np.testing.assert_array_equal(bits(y), bits(np.concatenate(want, -1)))


def test_pools_and_normalisation_round_the_float32_result() -> None:
    draw = np.random.default_rng(6)
    x = real(draw, 2, 8, 9, 13)
    x[0, 3, 4, 5], x[1, 0, 0, 0] = np.nan, -0.0
    same = x.astype(np.float32)
    for window in ((3, 2, 1), (2, 2, 0), (3, 1, 1)):
        found = bits(max_pool2d(x, *window))
        np.testing.assert_array_equal(found, bits(max_pool2d(same, *window).astype(BF16)))
        found = avg_pool2d(x, *window)
        want = avg_pool2d(same, *window).astype(BF16)
        np.testing.assert_array_equal(wide(found), wide(want))
    np.testing.assert_array_equal(wide(lrn(x)), wide(lrn(same).astype(BF16)))


def test_every_number_is_stored_as_it_is() -> None:
    """A mean of one pixel is that pixel: all 65,536 of them, subnormals and infinities too."""
    x = np.arange(1 << 16, dtype=np.uint16).reshape(1, 16, 16, 256).view(BF16)
    y = avg_pool2d(x, 1, 1)
    nan = np.isnan(wide(x))
    np.testing.assert_array_equal(np.isnan(wide(y)), nan)
    np.testing.assert_array_equal(wide(y)[~nan], wide(x)[~nan])


def test_ties_go_to_even_and_nan_stays_nan() -> None:
    above, tie, odd = 1 + 2.0**-8 + 2.0**-16, 1 + 2.0**-8, 1 + 3 * 2.0**-8
    values = np.array([above, tie, odd, -tie, np.inf, np.nan, 3.4e38], np.float32)
    w = np.ones((7, 1, 1, 2), BF16)
    y = conv2d(np.zeros((1, 1, 1, 2), BF16), w, values)
    want = np.array([1 + 2.0**-7, 1, 1 + 2.0**-6, -1, np.inf, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(y.astype(np.float32).ravel(), want)


def test_a_session_is_the_network_and_near_float64() -> None:
    net = pyi.models.small_inception(10, in_channels=3).eval()
    draw = np.random.default_rng(7)
    x = real(draw, 3, 16, 16, 3)
    net = fold_batch_norms(net)
    with pyi.using(backend="reference"):
        truth = np.asarray(copy.deepcopy(net).astype(np.float64)(wide(x)).data)
    net.store_as("bfloat16")
    run = session.Session(net, x.shape)
    y = run(x)
    assert y.dtype == BF16 and run._launches is not None
    np.testing.assert_array_equal(bits(y), bits(np.asarray(net(x).data)))
    np.testing.assert_array_equal(bits(session.Session(net, (1, *x.shape[1:]))(x[2:])), bits(y[2:]))
    depth = sum(1 for _, _, spec in tracing.specs(net, x.shape) if spec.macs)
    error = np.abs(wide(y) - truth).max() / np.abs(truth).max()
    assert 0 < error <= 2 * depth * ROUNDING  # a weight and a map rounded per layer
    first = next(net.parameters())
    first.values[...] *= 2
    first.changed()
    assert (bits(run(x)) != bits(y)).any()


@pytest.mark.oracles
def test_the_benchmark_has_rivals_in_bfloat16() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    how = {"rivals": ("torch", "onnxruntime"), "rounds": 1, "threads": 1}
    found = bench.run_net(dtype="bfloat16", **how)
    columns = found.rows[0]["columns"]
    assert not found.failed and found.settings["dtype"] == "bfloat16", columns
    assert found.left_out == {"onnxruntime": "has no bfloat16 on the CPU"}
    ours, torch = columns["fused"]["error"], columns["torch"]["error"]
    assert 2.0**-14 < ours < 2 * torch  # both round; float32 would be a hundred times nearer
    with pytest.raises(ValueError, match="dtype is 'float16', expected one of float32, bfloat16"):
        bench.run_net(dtype="float16")


X, W = np.ones((1, 4, 4, 4), BF16), np.ones((3, 3, 3, 4), BF16)
REFUSED = {
    "float16": (lambda: conv2d(X.astype(np.float16), W.astype(np.float16)), TypeError, "float16"),
    "filter of float32": (lambda: conv2d(X, W.astype(np.float32)), TypeError, "w has dtype"),
    "bias of bfloat16": (lambda: conv2d(X, W, np.ones(3, BF16)), TypeError, "b has dtype"),
    "reference": (lambda: conv2d(X, W, backend="reference"), TypeError, "x has dtype bfloat16"),
    "gradient": (
        lambda: pyi.conv2d_backward(np.ones((1, 2, 2, 3), BF16), X, W),
        TypeError,
        "has dtype bfloat16, expected float32",
    ),
    "argmax": (
        lambda: max_pool2d(X, 2, 2, return_argmax=True),
        NotImplementedError,
        "x is bfloat16, expected float32 with an argmax",
    ),
    "packing for dgrad": (
        lambda: prepack(W, Format(3, 3, 3, 4, "dgrad", dtype="bfloat16")),
        NotImplementedError,
        "expected float32 for direction 'dgrad'",
    ),
    "packed as float32": (
        lambda: prepack(W, Format(3, 3, 3, 4)),
        TypeError,
        "weights has dtype bfloat16, expected float32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        call()
