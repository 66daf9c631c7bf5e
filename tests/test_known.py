"""Calls seen before skip the checks they have passed, and nothing else about them changes."""

import numpy as np
import pytest

import pyinception as pyi
from pyinception import backend, border, config, dispatch, known, workspace

REASON = backend.why_not("cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


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
    """How often a call went the long way, over the border."""
    made = []
    real = border.Border.__init__
    monkeypatch.setattr(
        border.Border, "__init__", lambda self, *a: made.append(a[0]) or real(self, *a)
    )
    return made


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_is_short_and_has_the_same_bits(name, long_ways):
    function, arguments = CALLS[name]()
    first = function(*arguments)
    second = function(*arguments)
    assert long_ways == [name]
    assert np.array_equal(first, second) and not np.shares_memory(first, second)
    other = (2 * arguments[0], *arguments[1:])  # the same looks, other numbers
    right = function(*other, out=np.empty_like(first))
    assert np.array_equal(function(*other), right) and not np.array_equal(right, first)
    assert long_ways == [name, name]  # out= takes the long way


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
    # The reference is slow anyway and is never noted.
    assert long_ways == ["reduce_conv2d"] * 5
    kept = sorted(plan.row.name for plan in dispatch.known_plans.values())
    assert kept == ["cpu/auto", "cpu/direct", "cpu/plain"]


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
        assert 1 <= len(dispatch.known_plans) <= 3
