"""Calls seen before skip the checks they have passed, and nothing else about them changes."""

import numpy as np
import pytest
from built import needs_core

import pyinception as pyi
from pyinception import border, config, dispatch, known, workspace

pytestmark = needs_core


def draw(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def branch(c=6, cr=4, k=5):
    return draw(2, 7, 6, c), draw(cr, 1, 1, c), draw(cr), draw(k, 3, 3, cr), draw(k)


CALLS = {
    "conv2d": lambda: (pyi.conv2d, (draw(2, 7, 6, 3), draw(4, 3, 3, 3), draw(4))),
    "reduce_conv2d": lambda: (pyi.reduce_conv2d, branch()),
    "inception": lambda: (
        pyi.inception,
        (draw(1, 5, 5, 3), tuple(map(draw_shape, pyi.ops.weights.weight_shapes(3, (2,) * 6)))),
    ),
}


def draw_shape(shape):
    return draw(*shape)


@pytest.fixture(autouse=True)
def fresh():
    dispatch.clear()
    yield
    dispatch.clear()


@pytest.fixture
def long_ways(monkeypatch):
    """The calls that went the long way: their first array was taken over the border."""
    made = []
    real = border.Border.take

    def take(self, argument, value):
        if argument == "x":
            made.append(self.function)
        return real(self, argument, value)

    monkeypatch.setattr(border.Border, "take", take)
    return made


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_is_short_and_has_the_same_bits(name, long_ways):
    function, arguments = CALLS[name]()
    first = function(*arguments)
    second = function(*arguments)
    assert long_ways == [name]
    assert np.array_equal(first, second) and not np.shares_memory(first, second)
    other = (2 * arguments[0], *arguments[1:])  # the same looks, other numbers
    with config.using(backend="reference"):
        right = function(*other)
    assert long_ways.pop() == name
    assert np.allclose(function(*other), right, atol=1e-4) and not np.allclose(right, first)
    assert long_ways == [name]


def reduce_conv2d_out(y, r, gy, arguments):
    return pyi.reduce_conv2d(*arguments, out=np.full((2, 7, 6, 9), np.nan, "f4")[..., 2:7])


def reduce_conv2d_saved(y, r, gy, arguments):
    return pyi.reduce_conv2d(*arguments, return_reduced=True)


def reduce_conv2d_nchw(y, r, gy, arguments):
    turned = [a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for a in arguments]
    return pyi.reduce_conv2d(*turned, layout="NCHW").transpose(0, 2, 3, 1)


def reduce_conv2d_backward(y, r, gy, arguments):
    x, wr, _, w, _ = arguments
    return pyi.reduce_conv2d_backward(gy, x, wr, w, r=r, y=y)


def conv2d_backward(y, r, gy, arguments):
    return pyi.conv2d_backward(gy, r, arguments[3], y=y, padding=1)


def max_pool2d(y, r, gy, arguments):
    y, argmax = pyi.max_pool2d(arguments[0], 3, 1, 1, return_argmax=True)
    return y, argmax, pyi.max_pool2d_backward(y, argmax, y.shape, 3, 1, 1)


def avg_pool2d(y, r, gy, arguments):
    return pyi.avg_pool2d_backward(pyi.avg_pool2d(gy, 3, 1, 1), gy.shape, 3, 1, 1)


def lrn(y, r, gy, arguments):
    return pyi.lrn_backward(gy, pyi.lrn(y))


def linear(y, r, gy, arguments):
    flat, w = gy.reshape(2, -1), draw(3, gy.size // 2)
    return pyi.linear_backward(pyi.linear(flat, w, draw(3)), flat, w)


@pytest.mark.parametrize(
    "call",
    (
        reduce_conv2d_out,
        reduce_conv2d_saved,
        reduce_conv2d_nchw,
        reduce_conv2d_backward,
        conv2d_backward,
        max_pool2d,
        avg_pool2d,
        lrn,
        linear,
    ),
)
def test_every_kind_of_call_is_short_the_second_time(call, long_ways):
    arguments = branch()
    y, r = pyi.reduce_conv2d(*arguments, return_reduced=True)
    given = y, r, draw(*y.shape), arguments
    first = call(*given)
    count = len(long_ways)
    second = call(*given)
    assert len(long_ways) == count
    pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
    for a, b in pairs:
        assert np.array_equal(a, b) and not np.shares_memory(a, b)
    with config.using(backend="reference"):
        right = call(*given)
    pairs = zip(second, right, strict=True) if isinstance(second, tuple) else [(second, right)]
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)


def test_what_looks_do_not_tell_is_always_checked(long_ways):
    x, wr, br, w, b = branch(c=5)
    wide = np.zeros((2, 7, 6, 10), np.float32)
    wide[..., :5] = x
    inside, beside = wide[..., :5], wide[..., 5:]
    pyi.reduce_conv2d(inside, wr, br, w, b, out=beside)
    count, before = len(long_ways), wide.copy()
    pyi.reduce_conv2d(inside, wr, br, w, b, out=beside)
    assert len(long_ways) == count and np.array_equal(wide, before)
    for clash in (inside, wide[..., 2:7]):
        with pytest.raises(ValueError, match="reduce_conv2d: out overlaps an input"):
            pyi.reduce_conv2d(inside, wr, br, w, b, out=clash)
    assert len(long_ways) == count and np.array_equal(wide, before)
    beside.flags.writeable = False
    with pytest.raises(ValueError, match="reduce_conv2d: out is read-only"):
        pyi.reduce_conv2d(inside, wr, br, w, b, out=beside)
    y, argmax = pyi.max_pool2d(x, 3, 1, 1, return_argmax=True)
    pyi.max_pool2d_backward(y, argmax, x.shape, 3, 1, 1)
    argmax[0, 0, 0, 0] = 9
    with pytest.raises(ValueError, match="argmax has 9, expected 0"):
        pyi.max_pool2d_backward(y, argmax, x.shape, 3, 1, 1)


def test_what_looks_different_is_checked_again(long_ways):
    x, wr, br, w, b = branch()
    pyi.reduce_conv2d(x, wr, br, w, b)
    assert long_ways == ["reduce_conv2d"]
    refused = [
        ((x.astype(np.float64), wr, br, w, b), {}, TypeError),
        ((x, wr, br, w, b[:4]), {}, ValueError),
        ((x, wr, br[::-1], w, b[::2]), {}, ValueError),
        ((x, wr, br, w, b), {"stride": True}, TypeError),
        ((x, wr, br, w, b), {"stride": 1.0}, TypeError),
        ((x, wr, br, w, b), {"padding": (1, True)}, TypeError),
        ((x, wr, br, w, b), {"layout": "NCHW"}, ValueError),
        ((x, wr, br, w, b), {"algorithm": "fast"}, ValueError),
        ((np.ma.array(x), wr, br, w, b), {}, TypeError),
    ]
    pyi.reduce_conv2d(x, wr, br, w, b, padding=(1, 1))
    for arguments, options, error in refused:
        with pytest.raises(error, match=r"^(reduce_conv2d|argument): "):
            pyi.reduce_conv2d(*arguments, **options)
    assert len(long_ways) == 2 + len(refused)


def test_a_copied_input_is_copied_every_time():
    x, *weights = branch()
    turned = np.asfortranarray(x)
    before = workspace.copies["reduce_conv2d: x"]
    results = [pyi.reduce_conv2d(turned, *weights) for _ in range(3)]
    assert workspace.copies["reduce_conv2d: x"] == before + 3
    assert all(np.array_equal(y, results[0]) for y in results)


def test_switches_are_part_of_a_call(long_ways, monkeypatch):
    arguments = branch()
    for _ in range(2):
        pyi.reduce_conv2d(*arguments)
        with config.using(algorithm="plain"):
            pyi.reduce_conv2d(*arguments)
        with config.using(backend="reference"):
            pyi.reduce_conv2d(*arguments)
        monkeypatch.setenv("PYINCEPTION_ALGORITHM", "direct")
        pyi.reduce_conv2d(*arguments)
        monkeypatch.delenv("PYINCEPTION_ALGORITHM")
    assert long_ways == ["reduce_conv2d"] * 4
    kept = [plan.row.name for call in dispatch.known_calls.values() for plan in call.plans.values()]
    assert sorted(kept) == ["cpu/auto", "cpu/direct", "cpu/plain", "reference"]


def test_packed_filters_are_known_by_their_format(long_ways):
    x, wr, br, w, b = branch()
    packed = [pyi.prepack(f, pyi.Format(*f.shape, "fprop", "auto")) for f in (wr, w)]
    right = pyi.reduce_conv2d(x, wr, br, w, b)
    for _ in range(2):
        assert np.array_equal(pyi.reduce_conv2d(x, packed[0], br, packed[1], b), right)
    assert len(long_ways) == 2
    wrong = pyi.Packed(pyi.Format(5, 3, 3, 7), packed[1].data)
    with pytest.raises(ValueError, match=r"w has shape \(5, 3, 3, 7\)"):
        pyi.reduce_conv2d(x, packed[0], br, wrong, b)


def test_a_recording_notes_its_calls():
    arguments = branch()
    pyi.reduce_conv2d(*arguments)
    with workspace.record() as noted:
        pyi.reduce_conv2d(*arguments)
    assert len(noted.calls) == len(noted.arrays) == 1


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(known, "_MOST", 3)
    for extent in range(3, 12):
        pyi.conv2d(draw(1, extent, 3, 2), draw(4, 3, 3, 2))
        assert 1 <= len(dispatch.known_calls) <= 3


def test_options_without_end_are_refused() -> None:
    nested: tuple = ()
    for _ in range(5000):
        nested = (nested,)
    x, w = np.ones((1, 4, 4, 2), np.float32), np.ones((2, 1, 1, 2), np.float32)
    assert known.find(("conv2d", nested)) == (None, None)
    with pytest.raises((TypeError, ValueError, RecursionError)):
        pyi.conv2d(x, w, stride=nested)
