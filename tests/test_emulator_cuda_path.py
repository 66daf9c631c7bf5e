"""Backend "cuda" end to end but for the GPU: dispatch, records, plans, pointers as they are.

The runtime is stood in for by the emulator, the arrays by ones over its buffers.
"""

from typing import Any

import numpy as np
import pytest
from cuda_standin import Runtime, ndarray, standing_in
from pyinception.kernels.cuda_args import CONV_CUDA_ARGS
from test_emulator_ops import CASES, IDS, reference, stored, wide_cases

import pyinception as pyi
from pyinception import backend, dispatch, table, workspace
from pyinception.backend import BackendError
from pyinception.cuda import runs

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)


def moved(value: Any, runtime: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(moved(part, runtime) for part in value)
    return runtime.asarray(value) if isinstance(value, np.ndarray) else value


def hosts(value: Any) -> list[np.ndarray]:
    if isinstance(value, tuple):
        return [array for part in value for array in hosts(part)]
    if isinstance(value, ndarray):
        return [value.host]
    return [value] if isinstance(value, np.ndarray) else []


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_op_runs_where_its_arrays_are(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = reference(case, case.fresh())
    copies = sum(workspace.copies.values())
    with standing_in(monkeypatch) as runtime:
        arguments = moved(case.fresh(), runtime)
        before = [array.ctypes.data for array in hosts(arguments)]
        rows = table.rows(case.op, case.direction)
        (row,) = [row for row in rows if row.name == "cuda/direct"]
        row.run(case.spec, *arguments)
        assert runtime.ran and [array.ctypes.data for array in hosts(arguments)] == before
        for got, expected in zip(hosts(arguments), hosts(wanted), strict=True):
            np.testing.assert_allclose(got, expected, rtol=0 if case.exact else 1e-5, atol=1e-5)
    assert sum(workspace.copies.values()) == copies


@pytest.mark.parametrize("case", wide_cases(), ids=lambda c: f"{c.op}-{c.direction}")
def test_tensor_cores(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = case.op, case.direction
    given = stored(case.fresh(), runs.operands(key, case.spec, "bfloat16"))
    with standing_in(monkeypatch) as runtime:
        arguments = moved(given, runtime)
        (row,) = [row for row in table.rows(*key) if row.name == "cuda/mma"]
        row.run(case.spec, *arguments)
        (row,) = [row for row in table.rows(*key) if row.name == "emulated/mma"]
        row.run(case.spec, *given)
        for got, expected in zip(hosts(arguments), hosts(given), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_public_call_passes_the_caller_s_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    """x is a slice of channels of a wider buffer and y lands in one: no copy on either side."""
    draw = np.random.default_rng(0)
    wide = draw.integers(-3, 4, (2, 5, 5, 9)).astype(np.float32)
    w, b = draw.integers(-2, 3, (4, 3, 3, 6)).astype(np.float32), np.ones(4, np.float32)
    with standing_in(monkeypatch) as runtime:
        x = runtime.asarray(wide)[..., 1:7]
        out = runtime.asarray(np.full((2, 5, 5, 9), 7, np.float32))
        y = pyi.conv2d(
            x, runtime.asarray(w), runtime.asarray(b), padding=1, out=out[..., 2:6]
        )  # fmt: skip
        name, raw = runtime.ran[0]
        record = raw.view(CONV_CUDA_ARGS)[0]
        assert name == "conv_fprop" and record["x"] == x.host.ctypes.data
        assert record["panels"]["y"][0] == out.host.ctypes.data + 2 * 4
        assert record["x_strides"]["pixel"] == record["panels"]["y_strides"]["pixel"][0] == 9
        wanted = pyi.conv2d(np.ascontiguousarray(wide[..., 1:7]), w, b, padding=1)
        np.testing.assert_array_equal(y.host, wanted)
        assert (out.host[..., :2] == 7).all() and (out.host[..., 6:] == 7).all()
        with pytest.raises(TypeError, match="w is in host memory, expected cuda memory"):
            pyi.conv2d(x, w)
        with pytest.raises(BackendError, match='backend "cpu" takes NumPy arrays'):
            pyi.conv2d(x, runtime.asarray(w), backend="cpu")


def test_tensor_cores_copy_what_they_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice off 16 bytes is copied once and counted; an output there raises, before a launch."""
    wide = np.random.default_rng(0).integers(-3, 4, (1, 4, 4, 17)).astype(np.float16)
    w = np.ones((8, 1, 1, 8), np.float16)
    with standing_in(monkeypatch) as runtime:
        x, filters = runtime.asarray(wide)[..., 1:9], runtime.asarray(w)
        before = workspace.copies["cuda: x"]
        y = pyi.conv2d(x, filters)
        assert runtime.ran[-1][0] == "conv_mma" and workspace.copies["cuda: x"] == before + 1
        np.testing.assert_array_equal(
            y.host, pyi.conv2d(np.ascontiguousarray(wide[..., 1:9]), w, backend="emulated")
        )
        ran = len(runtime.ran)
        with pytest.raises(BackendError, match=r"y has strides .* expected steps of 8 elements"):
            pyi.conv2d(x, filters, out=runtime.asarray(wide)[..., 1:9])
        assert len(runtime.ran) == ran


def test_a_filter_off_16_bytes_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(-3, 4, (1, 4, 4, 8)).astype(np.float16)
    w = draw.integers(-3, 4, (8, 1, 1, 8)).astype(np.float16)
    with standing_in(monkeypatch) as runtime:
        memory = runtime.asarray(np.concatenate([np.zeros(1, np.float16), w.ravel()]))
        off = type(memory)(memory.host[1:].reshape(w.shape))
        before = workspace.copies["cuda: w"]
        y = pyi.conv2d(runtime.asarray(x), off)
        assert runtime.ran[-1][0] == "conv_mma" and workspace.copies["cuda: w"] == before + 1
        np.testing.assert_array_equal(y.host, pyi.conv2d(x, w, backend="emulated"))


@pytest.mark.parametrize("limit", [64, 24])
def test_a_device_with_less_shared_memory_takes_the_next_row(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.ones((1, 5, 5, 16), np.float16)
    w = np.ones((16, 3, 3, 16), np.float16)
    with standing_in(monkeypatch) as runtime:
        monkeypatch.setattr(Runtime, "cuda_device", lambda self: (limit << 10, 40))
        dispatch.clear()
        y = pyi.conv2d(runtime.asarray(x), runtime.asarray(w), padding=1)
        assert runtime.ran[-1][0] in ("conv_mma", "conv_fprop")
        if limit == 24:
            assert runtime.ran[-1][0] == "conv_fprop"
        np.testing.assert_array_equal(y.host, pyi.conv2d(x, w, padding=1, backend="emulated"))


def test_without_a_gpu_backend_cuda_says_what_is_missing() -> None:
    x = np.ones((1, 4, 4, 2), np.float32)
    with pytest.raises(BackendError, match=r"CUDA arrays.*cupy\.asarray"):
        pyi.lrn(x, backend="cuda")
    assert backend.why_not("cuda") is not None
