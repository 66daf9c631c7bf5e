"""NumPy as a rival: its seven operations against the reference, its place in a run."""

import numpy as np
import pytest

import pyinception as pyi
from pyinception import backend

pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed (extra `rivals`)")
REASON = backend.why_not("cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
if REASON is None:
    from pyinception import bench
    from pyinception.bench import rivals
    from pyinception.bench.rival_numpy import NumPy

WINDOWS = [  # kernel, stride, padding
    ((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (0, 0)), ((3, 2), (2, 1), (1, 0)),
    ((1, 7), (1, 1), (0, 3)), ((2, 2), (3, 3), (1, 1)),
]  # fmt: skip


@pytest.fixture
def numbers():
    draw = np.random.default_rng(5)

    def some(*shape):
        return draw.integers(-4, 5, shape).astype(np.float32)

    return some


@pytest.mark.parametrize("kernel, stride, padding", WINDOWS)
def test_operations_are_the_references(numbers, kernel, stride, padding):
    ops, x, b = NumPy(1), numbers(2, 9, 8, 5), numbers(6)
    w = numbers(6, *kernel, 5)
    window = {"stride": stride, "padding": padding, "backend": "reference"}
    for relu in (False, True):
        truth = pyi.conv2d(x, w, b, relu=relu, **window)
        np.testing.assert_array_equal(ops.conv(x, ops.weight(w), b, stride, padding, relu), truth)
    for ceil in (False, True):
        truth = pyi.max_pool2d(x, kernel, ceil_mode=ceil, **window)
        np.testing.assert_array_equal(ops.max_pool(x, kernel, stride, padding, ceil), truth)
    for include in (False, True):
        truth = pyi.avg_pool2d(x, kernel, count_include_pad=include, **window)
        found = ops.avg_pool(x, kernel, stride, padding, include)
        np.testing.assert_allclose(found, truth, rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(ops.mean(x), x.mean((1, 2), keepdims=True), rtol=1e-6)
    truth = pyi.lrn(x, 5, 1e-2, 0.75, 1.0, backend="reference")
    np.testing.assert_allclose(ops.lrn(x, 5, 1e-2, 0.75, 1.0), truth, rtol=1e-6)


def test_branch_module_and_network_are_judged_like_the_others():
    for found in (
        bench.run_module(["5a"], rivals=("numpy",), rounds=1),
        bench.run_reduce_conv(shapes=["2,6,5,16,8,20,5"], rivals=("numpy",), rounds=1),
        bench.run_net(rivals=("numpy",), rounds=1),
    ):
        (row,) = found.rows
        cell = row["columns"]["numpy"]
        assert not found.failed and cell["median_us"] > 0, row["columns"]
        assert cell["error"] < 2e-6
        assert found.environment["versions"]["numpy"] == np.__version__


def test_a_rival_without_the_precision_says_so():
    with rivals.opened(1, ("numpy",), "bfloat16") as (found, missing):
        assert (found, missing) == ([], {"numpy": "has no bfloat16 on the CPU"})
