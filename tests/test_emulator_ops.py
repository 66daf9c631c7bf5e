"""Every op on backend "emulated", checked: the CUDA kernels by the plans that a GPU would run.

Small integers make every sum exact, so float32 results must equal the reference's in every bit, and
16-bit results the reference's rounded once to storage; where an op rounds in between (the reduced
map, its gradient) or divides, the difference is held below what those roundings explain.
"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from op_cases import Case, arrays, cases, wide_cases

import pyinception as pyi
from pyinception import backend, dispatch, emulator, table
from pyinception.backend import BackendError, Target
from pyinception.cuda import runs
from pyinception.spec import ConvSpec, DropoutSpec, LrnSpec

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)

BF16, F16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
ROUNDING = {BF16: 2.0**-8, F16: 2.0**-11, F32: 2.0**-24}
CASES = cases()
# Ops of two roundings or more, and what is not made of sums and products alone.
SEVERAL = ("reduce_conv", "inception")
IDS = [f"{case.op}-{case.direction}-{i}" for i, case in enumerate(CASES)]


def stored(value: Any, like: Any) -> Any:
    """``value`` with the dtypes of ``like``, where there is an array."""
    if isinstance(value, tuple):
        others = like if isinstance(like, tuple) else (None,) * len(value)
        return tuple(stored(v, other) for v, other in zip(value, others, strict=True))
    if isinstance(value, np.ndarray) and isinstance(like, np.ndarray):
        return value.astype(like.dtype)
    return value


def framed(value: Any) -> Any:
    """Maps as slices of the channels of a wider buffer; what else there is, as it is."""
    if isinstance(value, tuple):
        return tuple(framed(part) for part in value)
    if not isinstance(value, np.ndarray) or value.ndim != 4 or value.dtype == np.uint8:
        return value
    *extents, channels = value.shape
    wide = np.full((*extents, channels + 5), 77, value.dtype)
    wide[..., 2:-3] = value
    return wide[..., 2:-3]


def run(case: Case, rung: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    (row,) = [row for row in table.rows(case.op, case.direction) if row.name == f"emulated/{rung}"]
    row.run(case.spec, *arguments)
    return arguments


def reference(case: Case, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The reference in float32, on what is stored."""
    wide = stored(arguments, runs.operands((case.op, case.direction), case.spec, "float32"))
    table.rows(case.op, case.direction)[-1].run(case.spec, *wide)
    return wide


def hold(case: Case, dtype: np.dtype, got: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    exact = case.exact and (dtype == F32 or case.op not in SEVERAL)
    for a, b in zip(arrays(got), arrays(wanted), strict=True):
        if exact:
            np.testing.assert_array_equal(a.astype(F32), b.astype(a.dtype).astype(F32))
        else:
            scale = np.abs(b).max(initial=0)
            room = 8 * max(ROUNDING[dtype], ROUNDING[F32] * 16) * max(float(scale), 1.0)
            np.testing.assert_allclose(a.astype(F32), b, rtol=0, atol=room)


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_cuda_cores(case: Case, dtype: np.dtype) -> None:
    """Operands and outputs as slices; the frame around each output stays."""
    template = runs.operands((case.op, case.direction), case.spec, dtype.name)
    given = framed(stored(case.fresh(), template))
    wanted = reference(case, stored(case.fresh(), template))
    got = run(case, "direct", given)
    hold(case, dtype, got, wanted)
    for array in arrays(got):
        if isinstance(array.base, np.ndarray) and array.base.ndim == 4:
            wide = array.base.astype(F32)
            assert (wide[..., :2] == 77).all() and (wide[..., -3:] == 77).all()


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize("case", wide_cases(), ids=lambda c: f"{c.op}-{c.direction}")
def test_tensor_cores(case: Case, dtype: np.dtype) -> None:
    """Integers are exact in tf32 too, up to 2^11."""
    key = case.op, case.direction
    if key == ("inception", "fprop") and dtype != BF16:
        pytest.skip("a translation compiles for 40 s; test_cuda_module.py has the others")
    template = runs.operands(key, case.spec, dtype.name)
    given = stored(case.fresh(), template)
    wanted = reference(case, given)
    rung = "tf32" if dtype == F32 else "mma"
    assert runs.why_not(rung, key, case.spec, dtype.name) is None
    hold(case, dtype if dtype != F32 else F16, run(case, rung, given), wanted)


def test_the_rung_is_the_best_that_takes_it() -> None:
    """16 bits go to tensor cores where channels allow it; float32 only where tf32 is named."""

    def row(channels: int, dtype: str, **how: Any) -> dispatch.Plan:
        spec = ConvSpec(1, 5, 5, channels, 8, 3, 3)
        return dispatch.choose("conv", "fprop", spec, Target("host", dtype), **how)

    emulated = {"backend": "emulated"}
    assert row(8, "bfloat16", **emulated).row.name == "emulated/mma"
    odd = row(12, "bfloat16", **emulated)
    assert odd.row.name == "emulated/direct"
    assert odd.declined == (
        ("emulated/mma", "C is 12, expected a multiple of 8 (16 bytes are copied at a time)"),
    )
    plain = row(8, "float32", **emulated)
    assert plain.row.name == "emulated/direct" and "tf32" in plain.declined[0][1]
    assert row(8, "float32", algorithm="tf32", **emulated).row.name == "emulated/tf32"
    with pytest.raises(BackendError, match="needs float32, not float16"):
        row(8, "float16", algorithm="tf32", **emulated)
    with pytest.raises(TypeError, match=r"float16, expected float32 \(16 bits run on"):
        row(8, "float16")


def test_plans_sentences_reach_the_caller() -> None:
    spec = LrnSpec(1, 2, 2, 8, beta=0.5)
    with pytest.raises(BackendError, match="a constant lies outside the range"):
        dispatch.choose("lrn", "fprop", spec, Target("host", "float32"), backend="emulated")
    rows = {row.name: row for row in table.rows("lrn", "fprop")}
    assert rows["cuda/direct"].why_not(spec, Target("host", "float32")) == (
        "needs arrays in cuda memory"
    )


def test_public_calls_in_16_bits() -> None:
    """Maps and filters of x's dtype, biases and filter gradients float32."""
    draw = np.random.default_rng(0)
    x = draw.integers(-3, 4, (2, 5, 5, 8)).astype(BF16)
    w, b = draw.integers(-1, 2, (8, 3, 3, 8)).astype(BF16), np.ones(8, np.float32)
    with pyi.using(backend="emulated"):
        y = pyi.conv2d(x, w, b, padding=1, relu=True)
        gx, gw, gb = pyi.conv2d_backward(y, x, w, y=y, padding=1)
        pooled = pyi.max_pool2d(y, 2)
    assert (y.dtype, gx.dtype, gw.dtype, gb.dtype) == (BF16, BF16, F32, F32)
    wanted = pyi.conv2d(x.astype(F32), w.astype(F32), b, padding=1, relu=True)
    np.testing.assert_array_equal(y.astype(F32), wanted.astype(BF16).astype(F32))
    np.testing.assert_array_equal(pooled.astype(F32), pyi.max_pool2d(y.astype(F32), 2))
    with pyi.using(backend="emulated"), pytest.raises(TypeError, match="b has dtype bfloat16"):
        pyi.conv2d(x, w, b.astype(BF16))
    host = pyi.conv2d(x, w, b, padding=1, relu=True)  # the CPU's own kernels
    np.testing.assert_array_equal(host.astype(F32), y.astype(F32))
    with pytest.raises(TypeError, match="bfloat16, expected float32"):
        pyi.conv2d_backward(y, x, w, padding=1)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_an_empty_batch(dtype: np.dtype) -> None:
    """Launches nothing but what makes filter gradients zero."""
    x, w = np.zeros((0, 6, 6, 8), dtype), np.ones((8, 3, 3, 8), dtype)
    b = np.ones(8, np.float32)
    with pyi.using(backend="emulated"):
        y = pyi.conv2d(x, w, b)
        gx, gw, gb = pyi.conv2d_backward(y, x, w, y=y)
        assert pyi.max_pool2d(x, 2).shape == (0, 3, 3, 8) and pyi.lrn(x).shape == x.shape
    assert y.shape == (0, 4, 4, 8) and gx.shape == x.shape
    assert not gw.any() and not gb.any()


def test_nan_and_signs_of_zero() -> None:
    """ReLU and max pool keep NaN; relu(-0.0) is +0.0; a NaN reaches its own windows only."""
    x = np.zeros((1, 4, 4, 8), np.float32)
    x[0, 0, 0, 0] = np.nan
    w = np.zeros((8, 1, 1, 8), np.float32)
    w[:, 0, 0, 0] = -1
    with pyi.using(backend="emulated"):
        y = pyi.conv2d(x, w, None, relu=True)
        pooled = pyi.max_pool2d(x, 2, 2)
    assert np.isnan(y[0, 0, 0]).all() and not np.isnan(y[0, 1:]).any()
    assert not np.signbit(y[0, 1:]).any() and not y[0, 1:].any()
    assert np.isnan(pooled[0, 0, 0, 0]) and np.isnan(pooled).sum() == 1


def test_a_write_beside_a_slice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is lied to about y's stride: the kernel stays in its buffer, not in its slice."""
    from pyinception.cuda import records

    put = records.Call.map

    def lie(self: Any, name: str, array: Any, into: Any = None, **how: Any) -> None:
        put(self, name, array, into, **how)
        if name == "y":
            record = self.record if into is None else into
            record["y_strides"]["pixel"] -= 1

    monkeypatch.setattr(records.Call, "map", lie)
    x, wide = np.ones((1, 1, 3, 4), np.float32), np.zeros((1, 1, 3, 9), np.float32)
    with pyi.using(backend="emulated"), pytest.raises(RuntimeError, match="beside its slice of y"):
        dispatch.launch("lrn", "fprop", LrnSpec(1, 1, 3, 4), x, wide[..., :4])


def test_an_output_may_be_an_input() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 12)
    place = 1, 2, 3, 4
    wanted = np.empty_like(x)
    dispatch.launch("dropout", "fprop", DropoutSpec(x.shape, 0.5), x, wanted, *place)
    with pyi.using(backend="emulated"):
        dispatch.launch("dropout", "fprop", DropoutSpec(x.shape, 0.5), x, x, *place)
    np.testing.assert_array_equal(x, wanted)
    assert x.any() and not x.all()


def test_a_fault_names_the_operand() -> None:
    """One element less than the record says: the guard page answers by the buffer's name."""
    from pyinception.cuda.executor import Emulated

    on, spec = Emulated(), LrnSpec(1, 1, 1, 4)
    x, y = np.ones((1, 1, 1, 4), np.float32), np.empty((1, 1, 1, 3), np.float32)
    with pytest.raises(emulator.EmulatorFault) as fault:
        runs.RUNS["direct"]["lrn", "fprop"](on, spec, x, y)
    assert (fault.value.kind, fault.value.buffer) == ("out of bounds", "y")
