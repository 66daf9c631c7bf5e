"""What the core refuses in words where it once crashed, hung or wrote: each a call of its own."""

import array
import sys

import numpy as np
import pytest
from child import passes

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")
WHERE = (3, 3), (1, 1), (1, 1)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_filter_gradient_without_extent():
    with pytest.raises(ValueError, match="gw has shape"):
        core.conv_wgrad(
            zeros(1, 4, 4, 8), zeros(1, 5, 2, 8), None, zeros(8, 0, 3, 8), None,
            (0, 3), (1, 1), (0, 0),
        )  # fmt: skip


@pytest.mark.parametrize("br", [None, zeros()])
def test_packed_filters_of_unknown_width(br):
    x, y = zeros(1, 4, 4, 8), zeros(1, 4, 4, 8)
    with pytest.raises(ValueError, match="wr and w are packed, so the reduced width must"):
        core.reduce_conv_fprop(x, zeros(0), br, zeros(0), None, y, None, *WHERE)


def test_overlap_with_a_reversed_filter():
    buffer = zeros(4096)
    w = buffer[:64][::-1].reshape(8, 1, 1, 8)
    y = buffer[:128].reshape(1, 4, 4, 8)
    with pytest.raises(ValueError, match="overlaps"):
        core.conv_fprop(zeros(1, 4, 4, 8), w, None, y, (1, 1), (1, 1), (0, 0), False)


def test_output_whose_rows_lie_on_each_other():
    folded = np.lib.stride_tricks.as_strided(zeros(64), (1, 4, 4, 8), (128, 32, 32, 4))
    with pytest.raises(ValueError, match="do not overlap"):
        core.conv_fprop(
            zeros(1, 4, 4, 8), zeros(8, 1, 1, 8), None, folded, (1, 1), (1, 1), (0, 0), False
        )


def test_extents_beyond_any_memory():
    wide = np.broadcast_to(zeros(1, 1, 1, 1), (1, 2**30, 2**30, 1))
    with pytest.raises(ValueError, match="at most 2\\^40"):
        core.conv_fprop(
            wide, zeros(1, 1, 1, 1), None, zeros(1, 1, 1, 1), (1, 1), (1, 1), (0, 0), False
        )


@pytest.mark.parametrize(("K", "direction"), [(0, "fprop"), (-8, "fprop"), (8, "bogus")])
def test_packed_size_of_nothing(K, direction):
    with pytest.raises(ValueError, match="packed_size"):
        core.packed_size(K, 3, 3, 8, direction)


def test_a_refused_array_is_let_go():
    y = zeros(1, 4, 4, 8)
    y.setflags(write=False)
    before = sys.getrefcount(y)
    for _ in range(20):
        with pytest.raises(ValueError, match="read-only"):
            core.conv_fprop(
                zeros(1, 4, 4, 8), zeros(8, 1, 1, 8), None, y, (1, 1), (1, 1), (0, 0), False
            )
    assert sys.getrefcount(y) == before


def test_a_recorded_buffer_cannot_be_resized():
    bias = array.array("f", [1.0] * 8)
    with core.record() as launches:
        core.conv_fprop(
            zeros(1, 4, 4, 8), zeros(8, 1, 1, 8), bias, zeros(1, 4, 4, 8), (1, 1), (1, 1), (0, 0),
            False,
        )  # fmt: skip
    with pytest.raises(BufferError):
        bias.extend([0.0] * 1000)
    del launches
    bias.extend([0.0])


def test_a_signal_handler_may_call_back():
    passes("""
        big = draw.standard_normal((32, 56, 56, 64)).astype(np.float32)
        expected, inner = conv(2), []
        signal.signal(signal.SIGALRM, lambda *_: inner.append(np.array_equal(conv(2), expected)))
        signal.setitimer(signal.ITIMER_REAL, 0.15, 0.15)
        whole = conv(2, big, "plain")
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert inner and all(inner)
        assert np.array_equal(whole, conv(1, big, "plain"))
    """)


def test_one_list_is_run_by_one_call_at_a_time():
    passes("""
        y = np.empty((*x.shape[:3], 96), np.float32)
        with core.record() as launches:
            core.conv_fprop(x, w, None, y, (3, 3), (1, 1), (1, 1), True, "plain", "", 2)
        refused, wrong = [], []
        def go():
            for _ in range(5):
                try:
                    launches.run(2)
                except ValueError as error:
                    refused.append(str(error))
        threads = [threading.Thread(target=go) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        launches.run(2)
        assert np.array_equal(y, conv(1, x, "plain"))
        assert all("being run by another call" in text for text in refused)
    """)


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 4), (0, 1, 2, -1), (0, 1, 2, 2**70), "0123", None]
)
def test_an_order_of_axes_that_is_none(order):
    x, w = np.ones((1, 2, 2, 3), np.float32), np.ones((4, 1, 1, 3), np.float32)
    x = x.transpose(0, 3, 1, 2)
    y = np.zeros((1, 2, 2, 4), np.float32)
    how = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "relu": False}
    core.conv_fprop((x, (0, 2, 3, 1)), w, None, y, **how)
    assert (y == 3).all()
    with pytest.raises(
        ValueError, match=r"conv_fprop: x is an array and .*, expected the order of"
    ):
        core.conv_fprop((x, order), w, None, y, **how)
