"""`explain` of specs and layers: kernel, tile, work, expected and measured time."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from built import needs_core

import pyinception as pyi
from pyinception.bench import fma, shapes, timing
from pyinception.layers import BatchNorm, Conv2d, Inception, Lrn, MaxPool2d
from pyinception.module import Sequential
from pyinception.session import Session
from pyinception.spec import ConvSpec, PoolSpec

pytestmark = needs_core


def test_kernel_and_tile_of_a_spec() -> None:
    with pyi.using(cpu_level="x86-64-v3"):
        module = pyi.explain(shapes.module("3a"))
        assert module.kernels["fprop"] == (
            "1x1 direct, 1x1 direct, 3x3 Winograd, 1x1 direct, 5x5 Winograd, 1x1 direct; "
            "register tile 6 x 16, x86-64-v3"
        )
        few = ConvSpec(1, 8, 8, 8, 32, 3, 3, (1, 1), (1, 1))
        assert pyi.explain(few).kernels["fprop"].startswith("3x3 direct")  # C below 16
        strided = ConvSpec(1, 9, 9, 32, 32, 3, 3, (2, 2), (1, 1))
        assert pyi.explain(strided).kernels["fprop"].startswith("3x3 direct")
        assert pyi.explain(few).kernels["wgrad"] == "direct, 4 x 16 sums, x86-64-v3"
        large = pyi.explain(shapes.conv("3a/3x3")).kernels
        assert large["wgrad"] == "Winograd, 4 x 16 sums, x86-64-v3"
        with pyi.using(algorithm="direct"):
            assert "3x3 direct" in pyi.explain(shapes.conv("3a/3x3")).kernels["fprop"]
        with pyi.using(algorithm="plain"):
            assert pyi.explain(few).kernels["fprop"] == "plain loops, x86-64-v3"
    with pyi.using(backend="reference"):
        assert pyi.explain(few).kernels == {}


def test_work_of_a_spec_is_the_specs() -> None:
    spec = shapes.conv("3a/3x3")
    told = pyi.explain(spec)
    value = json.loads(json.dumps(told.as_dict()))
    assert (value["flops"], value["bytes"], value["time"]) == (2 * spec.macs, spec.bytes, None)
    assert "173,408,256" in str(told) and "1,145,344, 151 FLOPs a byte" in str(told)


@pytest.mark.parametrize(
    "spec, made",
    [
        (shapes.conv("3a/3x3"), 36 * 49 * 96 * 128),  # Winograd: 7 x 7 tiles of 36 products
        (shapes.conv("3a/1x1"), 28 * 28 * 192 * 64),
        (shapes.conv("conv1"), 28 * 28 * 49 * 4 * 3 * 64),  # tiles of 49, four phases
        (shapes.branch("5a/5x5"), 7 * 7 * 832 * 32 + 64 * 4 * 32 * 128),  # 2 x 2 tiles
        (ConvSpec(2, 6, 9, 16, 16, 1, 7, (1, 1), (0, 3)), 2 * 6 * 3 * 10 * 256),  # rows of 3 tiles
    ],
    ids=["winograd", "1x1", "conv1", "5a/5x5", "1x7"],
)
def test_measured_spec(spec, made, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=time.thread_time)  # goes while other work has the cores
    for module in (timing, fma):
        monkeypatch.setattr(module, "time", clock)
    with pyi.using(threads=1):
        found = pyi.explain(spec, measure=True, rounds=2).time
    assert found.macs_made == made <= spec.macs and found.threads == 1
    assert found.expected_us == max(found.arithmetic_us, found.memory_us)
    assert found.arithmetic_us == pytest.approx(2e-3 * made / found.peak_gflops)
    assert 0 < found.p20_us <= found.measured_us <= found.p80_us
    assert found.measured_us < 100 * found.expected_us


def test_a_layer_is_explained_call_by_call() -> None:
    layer = Sequential(conv=Conv2d(8, 16, 3, padding=1, relu=True), norm=BatchNorm(16), lrn=Lrn(),
                       pool=MaxPool2d(2), module=Inception(16, 8, 8, 8, 4, 4, 4))  # fmt: skip
    told = pyi.explain(layer, (2, 12, 12, 8), rounds=1)
    assert [type(e.spec).__name__ for e in told] == [
        "ConvSpec", "BatchNormSpec", "LrnSpec", "PoolSpec", "InceptionSpec",
    ]  # fmt: skip
    assert all(e.time is not None and e.time.measured_us > 0 for e in told)
    assert {e.time.bound for e in told if not e.spec.macs} == {"memory"}
    assert str(told).count("measured") == 5
    assert len(json.loads(json.dumps(told.as_dict()))["calls"]) == 5
    assert all(e.time is None for e in pyi.explain(layer, (2, 12, 12, 8), measure=False))


def test_steps_of_a_session_compute_its_result() -> None:
    net = pyi.models.small_inception(10, in_channels=1)
    session = Session(net, (2, 12, 12, 1))
    x = np.random.default_rng(0).standard_normal((2, 12, 12, 1)).astype(np.float32)
    expected = session(x)
    session._y.fill(np.nan)
    for _, call in session.steps():
        call()
    np.testing.assert_array_equal(session._y, expected)
    assert len(session.steps()) == len(session._calls) > 20


def test_a_batch_that_goes_in_groups_is_timed_whole() -> None:
    layer = Conv2d(64, 64, 1)
    session = Session(layer, (64, 56, 56, 64))
    assert session.group < 64
    whole = pyi.explain(layer, (64, 56, 56, 64), rounds=1)[0]
    assert whole.time.macs_made == whole.spec.macs


@pytest.mark.parametrize(
    "what, shape, how, words",
    [
        (Conv2d(3, 4, 3), None, {}, "expected an input_shape with a layer"),
        (shapes.conv("conv1"), (1, 8, 8, 3), {}, "none with a spec"),
        (shapes.conv("conv1"), None, {"measure": True, "dtype": "float64"}, "expected float32"),
        (PoolSpec("max", 1, 8, 8, 3, (2, 2), (2, 2)), None, {"measure": True}, "by itself"),
        (Conv2d(3, 4, 3), (0, 8, 8, 3), {}, "at least one image"),
        (
            Conv2d(3, 4, 3),
            (8, 8, 3),
            {},
            "explain: input_shape is .8, 8, 3., expected .N, H, W, C. or",
        ),
    ],
)
def test_refusals(what, shape, how, words) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        pyi.explain(what, shape, **how)


def test_what_is_neither_a_spec_nor_a_layer_is_named() -> None:
    with pytest.raises(TypeError, match="explain: what is a int, expected a spec or a layer"):
        pyi.explain(3)
