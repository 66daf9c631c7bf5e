"""Winograd of the compiled core: exact on integers, its bits, its error, its refusals.

3x3 filters that are multiples of 576 make every step exact on small integers (see
kernels/cpu/winograd_transform.py), so the reference must be met to the bit. Larger filters leave no
room for that in 24 bits: they have the plain twin's bits and a small error.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from pyinception.kernels import reference
from winograd_cases import EXACT, GUARD, KERNELS, A, B, G, inside, packed, same

from pyinception import winograd
from pyinception.spec import BranchSpec, ConvSpec

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")

LEVELS = core.levels()
COUNT = 72


@dataclass
class Case:
    """A convolution's operands on integers and how it is called."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    y: np.ndarray | None  # the mask of dgrad, over gy = x
    padding: tuple[int, int]
    relu: bool
    start: np.ndarray | None  # what gx holds before, where it is added to
    expected: np.ndarray


def tile_bound(x, w, padding):
    """Largest absolute value that any partial sum of the two sums of products can take."""
    ph, pw = padding
    rows = -(-(x.shape[1] + 2 * ph - 2) // 4)
    columns = -(-(x.shape[2] + 2 * pw - 2) // 4)
    framed = np.zeros((x.shape[0], 4 * rows + 2, 4 * columns + 2, x.shape[3]))
    framed[:, ph : ph + x.shape[1], pw : pw + x.shape[2]] = x
    d = np.lib.stride_tricks.sliding_window_view(framed, (6, 6), (1, 2))[:, ::4, ::4]
    v = np.abs(np.einsum("ia,nhwcab,jb->nhwcij", B, d, B))
    u = np.abs(np.einsum("ia,kabc,jb->kcij", G, w, G))
    products = np.einsum("nhwcij,kcij->nhwkij", v, u, optimize=True)
    return np.einsum("ia,nhwkab,jb->nhwkij", abs(A), products, abs(A), optimize=True).max(initial=0)


def make_case(seed, dgrad):
    rng = np.random.default_rng([seed, dgrad])
    lanes = (1, 3, 15, 16, 17, 31, 32, 33, 40, 48, 70)
    n = int(rng.integers(0, 4)) if seed % 3 else 1
    k, c = (int(rng.choice(lanes)) for _ in range(2))
    # Pixels, odd sizes, whole tiles, and a map of more tiles than one register tile has rows.
    h, width = [(1, 1), (4, 4), (7, 7), (14, 14), (3, 17), (29, 8)][seed % 6]
    if seed >= 12:
        h, width = (int(e) for e in rng.integers(1, 20, 2))
    padding = tuple(int(max(p, 3 - e + 1 >> 1)) for p, e in zip(rng.integers(0, 3, 2), (h, width)))
    p, q = h + 2 * padding[0] - 2, width + 2 * padding[1] - 2

    def integers(*shape, low=-2, high=3):
        return rng.integers(low, high, shape).astype(np.float32)

    share = min(1, 12 / (k if dgrad else c))
    w = EXACT * integers(k, 3, 3, c, low=-1, high=2)
    w *= rng.random(w.shape) < share
    if not dgrad:
        x = integers(n, h, width, c)
        b = integers(k, low=-999, high=999) if rng.random() < 0.7 else None
        relu = bool(rng.random() < 0.5)
        assert tile_bound(x, w, padding) < 2**24
        expected = reference.conv2d_fprop(x, w, b, padding=padding, relu=relu)
        return Case(x, w, b, None, padding, relu, None, expected)
    gy = integers(n, p, q, k)
    y = integers(n, p, q, k) if rng.random() < 0.7 else None
    start = integers(n, h, width, c, low=-99, high=99) if rng.random() < 0.5 else None
    masked = gy if y is None else np.where(y > 0, gy, 0)
    flipped = w[:, ::-1, ::-1].transpose(3, 1, 2, 0)
    assert tile_bound(masked, flipped, (2 - padding[0], 2 - padding[1])) < 2**24
    expected = reference.conv2d_dgrad(gy, w, (n, h, width, c), padding=padding, y=y)
    if start is not None:
        expected = expected + start
    return Case(gy, w, None, y, padding, False, start, expected)


def run(case, dgrad, algorithm="winograd", level="", threads=1, w=None):
    rng = np.random.default_rng(7)
    _, x = inside(case.x, rng)
    y = None if case.y is None else inside(case.y, rng)[1]
    blank = np.full(case.expected.shape, GUARD).view(np.float32)
    wide, out = inside(blank if case.start is None else case.start, rng)
    w = case.w if w is None else w
    how = case.w.shape[1:3], (1, 1), case.padding
    if dgrad:
        core.conv_dgrad(x, w, y, out, *how, case.start is not None, algorithm, level, threads)
    else:
        core.conv_fprop(x, w, case.b, out, *how, case.relu, algorithm, level, threads)
    # All of the output was written, and nothing beside it.
    assert (wide.view(np.uint32) == GUARD).sum() == wide.size - out.size
    return out.copy()


@pytest.mark.parametrize("dgrad", [False, True], ids=["fprop", "dgrad"])
@pytest.mark.parametrize("seed", range(COUNT))
def test_exact_on_integers(seed, dgrad):
    case = make_case(seed, dgrad)
    nonzero = []
    for level in LEVELS:
        for threads in (1, 3):
            result = run(case, dgrad, level=level, threads=threads)
            np.testing.assert_array_equal(result, case.expected)
            nonzero.append(np.count_nonzero(result))
        packed_w = packed(case.w, "dgrad" if dgrad else "fprop", "winograd", level)
        same(run(case, dgrad, level=level, w=packed_w), result)
    if case.expected.size > 100:
        assert min(nonzero) > case.expected.size // 5


@pytest.mark.parametrize("padding", [(4, 3), (0, 6), (9, 2)])
def test_more_padding_than_the_filter_sees(padding):
    """Whole tiles then lie outside the image; in dgrad the border of gy is left out."""
    rng = np.random.default_rng(6)
    x = rng.integers(-2, 3, (2, 5, 6, 8)).astype(np.float32)
    w = EXACT * rng.integers(-1, 2, (20, 3, 3, 8)).astype(np.float32)
    expected = reference.conv2d_fprop(x, w, padding=padding)
    result = run(Case(x, w, None, None, padding, False, None, expected), False)
    np.testing.assert_array_equal(result, expected)
    gy = rng.integers(-2, 3, expected.shape).astype(np.float32)
    expected = reference.conv2d_dgrad(gy, w, x.shape, padding=padding)
    result = run(Case(gy, w, None, None, padding, False, None, expected), True)
    np.testing.assert_array_equal(result, expected)


def real_case(shape, w_shape, seed=0):
    rng = np.random.default_rng(seed)
    padding = w_shape[1] // 2, w_shape[2] // 2
    x = np.maximum(rng.standard_normal(shape), 0).astype(np.float32)
    w = (rng.standard_normal(w_shape) / np.sqrt(np.prod(w_shape[1:]))).astype(np.float32)
    b = rng.standard_normal(w_shape[0]).astype(np.float32)
    p, q = shape[1:3]
    blank = np.empty((shape[0], p, q, w_shape[0]), np.float32)
    return Case(x, w, b, None, padding, True, None, blank)


REAL = [((3, 14, 14, 33), (70, 3, 3, 33)), ((2, 7, 9, 16), (16, 3, 3, 16)),
        ((5, 4, 5, 3), (33, 3, 3, 3)), ((1, 30, 31, 20), (40, 3, 3, 20)),
        ((2, 14, 9, 17), (40, 5, 5, 17)), ((3, 17, 6, 33), (33, 1, 7, 33)),
        ((2, 7, 17, 16), (50, 7, 1, 16)), ((3, 8, 8, 19), (36, 1, 3, 19)),
        ((2, 9, 8, 16), (16, 3, 1, 16))]  # fmt: skip


@pytest.mark.parametrize(("shape", "w_shape"), REAL)
def test_the_same_bits_by_every_way(shape, w_shape):
    """Plain twin, levels, threads, a sample alone: real data, rounded at every step."""
    case = real_case(shape, w_shape)
    whole = run(case, False)
    assert np.count_nonzero(whole) > whole.size // 5
    for level in LEVELS:
        same(run(case, False, "winograd_plain", level), whole)
        for threads in (1, 2, 3, 7):
            same(run(case, False, level=level, threads=threads), whole)
    for i in range(shape[0]):
        alone = real_case(shape, w_shape)
        alone.x, alone.expected = case.x[i : i + 1], case.expected[i : i + 1]
        same(run(alone, False), whole[i : i + 1])


@pytest.mark.parametrize(("shape", "w_shape"), REAL)
def test_the_same_bits_by_every_way_of_dgrad(shape, w_shape):
    rng = np.random.default_rng(1)
    forward = real_case(shape, w_shape)
    gy = rng.standard_normal(forward.expected.shape).astype(np.float32)
    y = rng.standard_normal(gy.shape).astype(np.float32)
    y.flat[::97], y.flat[::89] = np.nan, -0.0
    start = rng.standard_normal(shape).astype(np.float32)
    case = Case(gy, forward.w, None, y, forward.padding, False, start, start)
    whole = run(case, True)
    for level in LEVELS:
        same(run(case, True, "winograd_plain", level), whole)
        for threads in (2, 3):
            same(run(case, True, level=level, threads=threads), whole)
    for i in range(shape[0]):
        part = slice(i, i + 1)
        ends = case.padding, False, start[part], start[part]
        alone = Case(gy[part], case.w, None, y[part], *ends)
        same(run(alone, True), whole[part])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("direction", ["fprop", "dgrad"])
@pytest.mark.parametrize(
    "shape",
    [(70, 3, 3, 17), (32, 3, 3, 64), (5, 3, 3, 1), (33, 5, 5, 17), (33, 1, 7, 5), (9, 7, 1, 40),
     (17, 1, 3, 3), (40, 3, 1, 2)],
)  # fmt: skip
def test_filters_of_the_plain_twin(shape, direction, level):
    w = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    fast, plain = (packed(w, direction, a, level) for a in ("winograd", "winograd_plain"))
    assert np.isfinite(fast).all()
    same(fast, plain)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("positive", [True, False])
def test_error_against_float64(positive, kernel):
    """At most 8e-6 of the largest output, both directions (direct: 2e-6)."""
    rng = np.random.default_rng(2)
    case = real_case((1, 28, 27, 96), (128, *kernel, 96))
    if not positive:
        case.x = rng.standard_normal(case.x.shape).astype(np.float32)
    wide, padding = [a.astype(np.float64) for a in (case.x, case.w, case.b)], case.padding
    expected = reference.conv2d_fprop(*wide, padding=padding, relu=True)
    error = np.abs(run(case, False) - expected).max() / np.abs(expected).max()
    assert error < 8e-6
    gy = rng.standard_normal(case.expected.shape).astype(np.float32)
    back = Case(gy, case.w, None, None, padding, False, None, np.empty_like(case.x))
    expected = reference.conv2d_dgrad(gy.astype(np.float64), wide[1], case.x.shape, padding=padding)
    error = np.abs(run(back, True) - expected).max() / np.abs(expected).max()
    assert error < 8e-6


@pytest.mark.parametrize("kernel", KERNELS[1:])
@pytest.mark.parametrize("padding", [(0, 0), (4, 3), (9, 8)])
def test_any_padding(kernel, padding):
    """None, less and more than the filter sees, both directions, on integers within rounding."""
    padding = tuple(p if r > 1 else 0 for p, r in zip(padding, kernel, strict=True))
    rng = np.random.default_rng(6)
    x = rng.integers(-2, 3, (2, 9, 10, 8)).astype(np.float32)
    w = rng.integers(-1, 2, (20, *kernel, 8)).astype(np.float32)
    expected = reference.conv2d_fprop(x, w, padding=padding)
    result = run(Case(x, w, None, None, padding, False, None, expected), False)
    np.testing.assert_array_equal(np.rint(result), expected)
    gy = rng.integers(-2, 3, expected.shape).astype(np.float32)
    expected = reference.conv2d_dgrad(gy, w, x.shape, padding=padding)
    result = run(Case(gy, w, None, None, padding, False, None, expected), True)
    np.testing.assert_array_equal(np.rint(result), expected)


def test_nan_and_infinity_reach_their_tile_and_no_other():
    case = real_case((1, 12, 12, 5), (6, 3, 3, 5))
    clean = run(case, False)
    case.x = case.x.copy()
    case.x[0, 5, 6, 2] = np.nan
    result = run(case, False, w=case.w)
    assert np.isnan(result[0, 4:7, 5:8]).all()
    clear = np.ones((12, 12), bool)
    clear[4:8, 4:8] = False
    same(result[0][clear], clean[0][clear])


def test_auto_goes_by_the_filter_and_not_by_the_batch():
    taken = {}
    for k, c, r in ((4, 3, 3), (128, 96, 3), (32, 16, 5), (16, 12, 5)):
        case = real_case((2, 14, 14, c), (k, r, r, c))
        auto = run(case, False, "auto")
        taken[k] = [a for a in ("direct", "winograd") if np.array_equal(auto, run(case, False, a))]
        case.x, case.expected = case.x[:1], case.expected[:1]
        same(run(case, False, "auto"), auto[:1])
        same(run(case, False, "auto", w=packed(case.w, "fprop", "auto")), auto[:1])
    assert taken == {4: ["direct"], 128: ["winograd"], 32: ["winograd"], 16: ["direct"]}


def test_packed_filters_say_what_they_are_for():
    case = real_case((1, 9, 9, 48), (64, 3, 3, 48))
    for algorithm in ("direct", "winograd"):
        w = packed(case.w, "fprop", algorithm)
        same(run(case, False, "auto", w=w), run(case, False, algorithm))
        other = "winograd" if algorithm == "direct" else "direct"
        with pytest.raises(ValueError, match=f"w is packed for '{algorithm}', but algorithm is"):
            run(case, False, other, w=w)
    assert packed(case.w, "fprop", "winograd").size == 4 * packed(case.w, "fprop", "direct").size
    x, w, y = (np.ones(s, np.float32) for s in ((1, 9, 9, 48), (64, 3, 3, 48), (1, 5, 5, 64)))
    with pytest.raises(ValueError, match="packed for 'winograd', which needs stride 1"):
        core.conv_fprop(
            x, packed(w, "fprop", "winograd"), None, y, (3, 3), (2, 2), (1, 1), False, "auto"
        )
    assert (y == 1).all()
    # Modules pack all their filters for one algorithm: 1x1 is packed for direct.
    assert core.packed_size(64, 1, 1, 48, "fprop", "winograd", "") == core.packed_size(
        64, 1, 1, 48, "fprop", "direct", ""
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "word"),
    [((7, 7), (1, 1), "stride 2"), ((1, 1), (1, 1), "3x3"), ((3, 5), (1, 1), "3x3"),
     ((3, 3), (2, 2), "stride 1"), ((5, 5), (1, 2), "stride 1")],
)  # fmt: skip
def test_refuses_what_it_cannot_do(kernel, stride, word):
    x = np.ones((1, 9, 9, 4), np.float32)
    w = np.ones((8, *kernel, 4), np.float32)
    p, q = ((9 - k) // s + 1 for k, s in zip(kernel, stride, strict=True))
    y = np.full((1, p, q, 8), 7, np.float32)
    with pytest.raises(NotImplementedError, match=f"conv_fprop: .*winograd' needs .*{word}"):
        core.conv_fprop(x, w, None, y, kernel, stride, (0, 0), False, "winograd")
    gx = np.full_like(x, 7)
    with pytest.raises(NotImplementedError, match=f"conv_dgrad: .*winograd' needs .*{word}"):
        core.conv_dgrad(y, w, None, gx, kernel, stride, (0, 0), False, "winograd")
    assert (y == 7).all()
    assert (gx == 7).all()
    core.conv_fprop(x, w, None, y, kernel, stride, (0, 0), False, "auto")
    assert (y == 4 * kernel[0] * kernel[1]).all()


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("kernel", [*KERNELS, (7, 7), (1, 1), (3, 5), (4, 4)])
def test_the_table_refuses_what_the_core_refuses(kernel, stride):
    """winograd.why_not has a reason exactly where the core raises."""
    conv = ConvSpec(1, 9, 9, 4, 8, *kernel, stride)
    branch = BranchSpec((ConvSpec(1, 9, 9, 3, 4, 1, 1), conv))
    shapes = branch.x_shape, (4, 1, 1, 3), conv.x_shape, conv.w_shape, conv.y_shape
    x, wr, r, w, y = (np.ones(shape, np.float32) for shape in shapes)
    outs, how = [np.empty_like(a) for a in (x, wr, wr[:, 0, 0, 0], w, y[0, 0, 0])], (kernel, stride)
    end, more = ((0, 0), False, "winograd", "", 1), ((0, 0), "winograd", "", 1)
    calls = {
        ("fprop", conv): lambda: core.conv_fprop(r, w, None, y, *how, *end),
        ("dgrad", conv): lambda: core.conv_dgrad(y, w, None, np.empty_like(r), *how, *end),
        ("wgrad", conv): lambda: core.conv_wgrad(r, y, None, outs[3], None, *how, *more),
        ("fprop", branch): lambda: core.reduce_conv_fprop(
            x, wr, None, w, None, y, None, *how, *more
        ),
        ("backward", branch): lambda: core.reduce_conv_backward(
            y, x, wr, w, r, y.copy(), *outs, *how, *end
        ),
    }
    for (direction, spec), call in calls.items():
        if winograd.why_not(direction, spec) is None:
            call()
        else:
            with pytest.raises(NotImplementedError, match="'winograd'"):
                call()
