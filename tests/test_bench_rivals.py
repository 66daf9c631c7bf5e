"""Rivals: NumPy's seven operations against the reference, what a run makes of each of them."""

import numpy as np
import pytest
from built import REASON, needs_core

import pyinception as pyi

threadpool_info = pytest.importorskip(
    "threadpoolctl", reason="threadpoolctl is not installed (extra `rivals`)"
).threadpool_info
pytestmark = needs_core
if REASON is None:
    from pyinception import bench
    from pyinception.bench import rivals, runs, timing
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
    one, w = numbers(4, 1, 1, 5), numbers(6, 5)
    truth = pyi.linear(one[:, 0, 0], w, b, backend="reference")
    np.testing.assert_array_equal(ops.linear(one, w, b), truth)


def test_blas_has_as_many_threads_as_were_asked_for(numbers):
    def blas():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    before, seen = blas(), []
    asked = max(before) + 1
    NumPy(asked).prepare(lambda ops, x, weights: seen.append(blas()) or x, numbers(1, 2), []).call()
    assert seen == [{asked}] * 2 and blas() == before


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


@pytest.mark.parametrize("name", ["numpy", "onnxruntime"])
def test_a_rival_without_the_precision_says_so(name):
    with rivals.opened(1, (name,), "bfloat16") as (found, missing):
        assert (found, missing) == ([], {name: "has no bfloat16 on the CPU"})


@pytest.mark.oracles
def test_torch_takes_the_layout_that_its_name_says():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with rivals.opened(1, ("torch", "torch.nchw")) as (found, _):
        last, first = (rival.weight(np.ones((2, 5, 4, 3), np.float32)) for rival in found)
    assert last.shape == first.shape == (2, 3, 5, 4)
    assert first.is_contiguous() and not last.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_runs_wait_for_the_teams_of_others(monkeypatch):
    """Ours alone on one thread need no pause; beside another, or with a team, every call does."""
    waited = []

    def interleave(calls, **how):
        waited.append((how.pop("settle"), dict(how.pop("spinning"))))
        return timing.interleave(calls, **how)

    monkeypatch.setattr(runs, "interleave", interleave)
    for threads, others in ((1, False), (1, ("numpy",)), (2, False), (2, ("numpy",))):
        bench.run_conv("5a/5x5", threads=threads, rivals=others, rounds=1)
    settle, spinning = timing.SETTLE_SECONDS, timing.SPINNING_SECONDS
    assert waited == [(0.0, {}), (settle, {}), (settle, spinning), (settle, spinning)]
    assert spinning.keys() == {"onnxruntime", "numpy"} < set(rivals.NAMES)
    assert 0 < settle < min(spinning.values())


def test_rivals_whose_samples_spread_are_named(monkeypatch):
    def cell(p20, p80):
        return {"p20_us": p20, "median_us": p20, "p80_us": p80}

    wide = {"fused": cell(1, 9), "call": cell(1, 9), "torch": cell(10, 13.1), "numpy": cell(1, 2)}
    calm = {"fused": cell(1, 1), "torch": cell(10, 12.9), "openvino": {"failed": "error"}}
    rows = [{"name": "3a", "columns": wide}, {"name": "3b", "columns": calm}]
    rows.append({"name": "4a", "columns": {"torch": cell(1, 2)}})
    (note,) = timing.unsteady_note(rows)
    assert note.startswith("DISTURBED: p80 is above 1.3 p20 for torch on 3a, 4a; numpy on 3a: ")
    assert timing.unsteady_note(rows[1:2]) == []
    monkeypatch.setattr(timing, "SPREAD", 0.0)  # nothing is calm enough
    found = bench.run_conv("5a/5x5", rivals=("numpy",), rounds=1)
    assert any("for numpy on 5a/5x5: no ratio" in note for note in found.notes)
