"""The table and the choice from it: parity of rows, reasons, fallback, packed weights."""

import inspect
import logging
from typing import Any

import numpy as np
import pytest
from built import needs_core
from core_contract import bits, standing_in
from op_cases import Case, arrays, cases

import pyinception as pyi
from pyinception import backend, config, dispatch, table
from pyinception.backend import BackendError, Target, core
from pyinception.ops.weights import weight_shapes
from pyinception.prepack import Format, prepack
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec, PoolSpec

CASES = cases()
CONV = ConvSpec(1, 8, 8, 3, 4, 3, 3, (1, 1), (1, 1))
HOST = Target("host", "float32")


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> Any:
    reason = 'the compiled core pyinception._C is not built here; use backend="reference"'
    monkeypatch.setattr(backend, "_load_core", lambda: (None, reason))
    dispatch.clear()
    yield
    monkeypatch.undo()
    dispatch.clear()


def test_cpu_and_reference_list_the_same_ops_and_parameters() -> None:
    for key in table.HOST_ROWS:
        rows = table.rows(*key)
        assert rows[0].name == "cpu/auto", key
        assert rows[-1].name == "reference", key
        names = [tuple(inspect.signature(row.run).parameters) for row in rows]
        assert len(set(names)) == 1, (key, set(names))
        assert {row.name for row in rows} >= {"cpu/auto", "cpu/plain", "reference"}


def test_cases_cover_the_table() -> None:
    assert {(case.op, case.direction) for case in CASES} == set(table.HOST_ROWS)


def _run(case: Case, row: table.Row) -> list[np.ndarray]:
    arguments = case.fresh()
    row.run(case.spec, *arguments)
    return arrays(arguments)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}-{c.direction}")
def test_every_row_runs_or_gives_a_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU rows over a stand-in for the core: arguments arrive in the contract's order."""
    rows = table.rows(case.op, case.direction)
    expected = _run(case, rows[-1])
    before = arrays(case.arguments)
    changed = sum(bits(a) != bits(b) for a, b in zip(expected, before, strict=True))
    assert changed > 0
    assert all(np.isfinite(a).all() for a in expected)
    with standing_in(monkeypatch) as core:
        for row in (row for row in rows if row.backend == "cpu"):
            reason = row.why_not(case.spec, HOST)
            if reason is not None:
                assert row.algorithm == "winograd", (row.name, reason)
                continue
            results = _run(case, row)
            for a, b in zip(results, expected, strict=True):
                assert bits(a) == bits(b)
            assert core.calls[-1][1:] == (row.algorithm, "", 0)


@needs_core
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}-{c.direction}")
def test_core_rows_against_the_reference(case: Case) -> None:
    rows = table.rows(case.op, case.direction)
    expected = _run(case, rows[-1])
    for row in rows[:-1]:  # the CUDA kernels': test_emulator_ops.py
        if row.backend == "cpu" and row.why_not(case.spec, HOST) is None:
            for a, b in zip(_run(case, row), expected, strict=True):
                if case.exact and row.algorithm in ("direct", "plain"):
                    np.testing.assert_array_equal(a, b)
                else:
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_missing_core_raises_with_cause_and_remedy(no_core: None) -> None:
    x, w = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 1, 1, 2), np.float32)
    with pytest.raises(BackendError, match=r'conv2d: backend "cpu".*not built.*reference'):
        pyi.conv2d(x, w, backend="cpu")
    with pytest.raises(BackendError, match='"emulated" cannot run'):
        pyi.conv2d(x, w, backend="emulated")
    with pytest.raises(BackendError, match=r"CUDA arrays.*cupy\.asarray"):
        pyi.conv2d(x, w, backend="cuda")


def test_auto_falls_back_and_says_so_once(no_core: None, caplog: pytest.LogCaptureFixture) -> None:
    x, w = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 1, 1, 2), np.float32)
    with caplog.at_level(logging.WARNING, "pyinception"):
        for _ in range(3):
            np.testing.assert_array_equal(pyi.conv2d(x, w), np.full((1, 4, 4, 3), 2))
        pyi.max_pool2d(x, 2)
    assert len(caplog.records) == 1
    assert "NumPy reference" in caplog.records[0].message


def test_an_explicit_reference_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    dispatch.clear()
    with caplog.at_level(logging.DEBUG, "pyinception"):
        pyi.lrn(np.ones((1, 2, 2, 3), np.float32), backend="reference")
    assert not caplog.records


def test_float64_is_for_the_reference_only() -> None:
    x, w = np.ones((1, 4, 4, 2)), np.ones((3, 1, 1, 2))
    with pytest.raises(TypeError, match="conv2d: arrays have dtype float64, expected float32"):
        pyi.conv2d(x, w)
    assert pyi.conv2d(x, w, backend="reference").dtype == np.float64


def test_algorithm_argument_binds_and_switch_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    two = ConvSpec(1, 8, 8, 3, 4, 2, 2)
    with standing_in(monkeypatch):
        chosen = dispatch.choose("conv", "fprop", CONV, HOST)
        assert chosen.row.name == "cpu/auto"
        assert chosen.format is not None
        assert chosen.format.algorithm == "auto"
        binding = dispatch.choose("conv", "fprop", CONV, HOST, algorithm="winograd")
        assert binding.row.name == "cpu/winograd"
        with pytest.raises(BackendError, match="needs a filter of one of 3x3, 5x5"):
            dispatch.choose("conv", "fprop", two, HOST, algorithm="winograd")
        with config.using(algorithm="winograd"):
            assert dispatch.choose("conv", "fprop", CONV, HOST).row.name == "cpu/winograd"
            plan = dispatch.choose("conv", "fprop", two, HOST)
            assert plan.row.name == "cpu/auto"
            assert plan.declined[0][0] == "cpu/winograd"
        with config.using(cpu_level="x86-64-v4"):
            level = dispatch.choose("conv", "fprop", CONV, Target("host", "float32", "x86-64-v4"))
            assert level.row.name == "reference"
            assert "levels that can: x86-64-v3" in level.declined[0][1]


def test_switches_reach_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 3, 2), np.float32)
    with standing_in(monkeypatch) as core, config.using(threads=2, cpu_level="x86-64-v3"):
        pyi.conv2d(x, w, algorithm="plain")
        assert core.calls == [("conv_fprop", "plain", "x86-64-v3", 2)]


def test_packed_weights_are_accepted_wherever_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2, 6, 6, 3)).astype(np.float32)
    w = draw.standard_normal((4, 3, 3, 3)).astype(np.float32)
    with standing_in(monkeypatch):
        spec = ConvSpec(2, 6, 6, 3, 4, 3, 3, (1, 1), (1, 1))
        format = dispatch.choose("conv", "fprop", spec, HOST).format
        assert format is not None
        packed = prepack(w, format)
        assert (packed.shape, packed.data.ndim) == (w.shape, 1)
        assert bits(pyi.conv2d(x, packed, padding=1)) == bits(pyi.conv2d(x, w, padding=1))
        with pytest.raises(BackendError, match="unpacked weights"):
            pyi.conv2d(x, packed, padding=1, backend="reference")
        with pytest.raises(ValueError, match=r"prepack: weights has shape \(4, 3, 3, 2\)"):
            prepack(w[..., :2], format)
        with pytest.raises(
            TypeError, match=r"prepack: format is 'direct' \(str\), expected a Form"
        ):
            prepack(w, "direct")
        with pytest.raises(TypeError, match="prepack: weights has dtype float64"):
            prepack(w.astype(np.float64), format)


@needs_core
def test_weights_packed_for_something_else_are_refused() -> None:
    """Sizes are equal: another direction, another level must not be read as if they were ours."""
    draw = np.random.default_rng(1)
    x, gy = (draw.standard_normal((1, 6, 6, 32)).astype(np.float32) for _ in range(2))
    w = draw.standard_normal((32, 3, 3, 32)).astype(np.float32)
    forward, backward = (prepack(w, Format(32, 3, 3, 32, d)) for d in ("fprop", "dgrad"))
    y, gx = pyi.conv2d(x, w, padding=1), pyi.conv2d_backward(gy, x, w, padding=1)[0]
    assert bits(pyi.conv2d_backward(gy, x, backward, padding=1)[0]) == bits(gx)
    with pytest.raises(BackendError, match=r"conv2d: weights are packed as .*'dgrad'.*'fprop'"):
        pyi.conv2d(x, backward, padding=1)
    with pytest.raises(BackendError, match=r"conv2d_backward: weights are packed as .*'fprop'"):
        pyi.conv2d_backward(gy, x, forward, padding=1)
    flat = prepack(w[:, 0, 0], Format(32, 1, 1, 32))
    with pytest.raises(BackendError, match="linear_backward: weights are packed as"):
        pyi.linear_backward(gy[0, 0], x[0, 0], flat)
    named = prepack(w, Format(32, 3, 3, 32, level=core().host_level()))
    assert bits(pyi.conv2d(x, named, padding=1)) == bits(y)
    others = [level for level in core().levels() if level != core().host_level()]
    for level in others:
        with pytest.raises(BackendError, match=f"packed as .*{level}"):
            pyi.conv2d(x, prepack(w, Format(32, 3, 3, 32, level=level)), padding=1)
        with (
            config.using(cpu_level=level),
            pytest.raises(BackendError, match=f"expected .*{level}"),
        ):
            pyi.conv2d(x, forward, padding=1)


@needs_core
@pytest.mark.parametrize("wish", ["plain", "direct", "winograd"])
def test_packed_weights_outrank_the_switch_but_not_the_argument(wish: str) -> None:
    draw = np.random.default_rng(2)
    x = draw.standard_normal((1, 6, 6, 32)).astype(np.float32)
    w = draw.standard_normal((32, 3, 3, 32)).astype(np.float32)
    for algorithm in ("direct", "winograd"):
        packed = prepack(w, Format(32, 3, 3, 32, algorithm=algorithm))
        y = pyi.conv2d(x, w, padding=1, algorithm=algorithm)
        with config.using(algorithm=wish):
            assert bits(pyi.conv2d(x, packed, padding=1)) == bits(y)
        if algorithm != wish:
            with pytest.raises(BackendError, match=r"weights are packed as|takes unpacked"):
                pyi.conv2d(x, packed, padding=1, algorithm=wish)


@needs_core
def test_packed_weights_within_a_module_are_found() -> None:
    weights = [np.ones(shape, np.float32) for shape in weight_shapes(3, (2, 2, 3, 2, 2, 2))]
    weights[4] = prepack(weights[4], Format(*weights[4].shape))
    x = np.ones((1, 4, 4, 3), np.float32)
    with pytest.raises(BackendError, match="inception: reference takes unpacked weights"):
        pyi.inception(x, weights, backend="reference")
    pyi.inception(x, weights)


def test_chains_that_no_row_takes_are_refused_with_a_reason() -> None:
    chain = BranchSpec((CONV, ConvSpec(1, 8, 8, 4, 4, 3, 3)))
    with pytest.raises(BackendError, match="1x1 -> RxS with ReLU"):
        dispatch.choose("reduce_conv", "fprop", chain, HOST)
    module = InceptionSpec((BranchSpec((CONV,)),))
    with pytest.raises(BackendError, match="four branches"):
        dispatch.choose("inception", "fprop", module, HOST)


def test_plans_are_cached_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch.clear()
    with config.using(backend="reference"):
        first = dispatch.choose("conv", "fprop", CONV, HOST)
        assert dispatch.choose("conv", "fprop", CONV, HOST) is first
        monkeypatch.setattr(dispatch, "_MOST_PLANS", 3)
        for side in range(8, 20):
            dispatch.choose("conv", "fprop", ConvSpec(1, side, 8, 3, 4, 3, 3), HOST)
            assert len(dispatch._plans) <= 3
    dispatch.clear()


def test_explain_reads_like_the_table(no_core: None) -> None:
    told = pyi.explain(CONV)
    text = str(told)
    assert "conv fprop -> reference" in text
    assert "not built here" in text
    assert f"{CONV.macs:,}" in text
    assert [row[2] for row in told.rows if row[1] == "fprop"][-1] == "reference"
    assert told.as_dict()["chosen"] == {
        "fprop": "reference",
        "dgrad": "reference",
        "wgrad": "reference",
    }
    pool = pyi.explain(PoolSpec("max", 1, 8, 8, 3, (2, 2), (2, 2)))
    assert {row[0] for row in pool.rows} == {"max_pool"}


def test_explain_counts_copies_and_names_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((1, 8, 8, 6), np.float32)[..., ::2]
    with standing_in(monkeypatch):
        before = pyi.explain(CONV).copies.get("conv2d: x", 0)
        pyi.conv2d(x, np.ones((4, 3, 3, 3), np.float32))
        told = pyi.explain(CONV)
        assert told.copies["conv2d: x"] == before + 1
        assert "raw weights are packed on each call" in str(told)


def test_doctor_reports_plain_data(no_core: None) -> None:
    import json

    report = pyi.doctor()
    assert report["backends"]["reference"] is None
    assert "not built" in report["backends"]["cpu"]
    assert json.loads(json.dumps(report))["python"] == report["python"]
    assert "backend cpu" in str(report)
