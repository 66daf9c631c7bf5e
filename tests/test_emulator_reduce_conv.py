"""``backend="emulated"``: the shipped CUDA kernels of reduce_conv, checked, against the reference.

Small integers make every partial sum exact, so results must be equal in every bit.
"""

import json

import numpy as np
import pytest
from pyinception.kernels import reference

import pyinception as pyi
from pyinception import backend, emulator
from pyinception.dispatch import launch
from pyinception.emulator.device import BACK_EDGES
from pyinception.spec import BranchSpec, ConvSpec

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)

# N, H, W, C, Cr, K, R, stride, padding: edges no multiple of a tile, tails of every channel count.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1, 0),
    (2, 7, 5, 3, 5, 7, 3, 1, 1),
    (1, 14, 13, 17, 33, 70, 3, 1, 1),
    (1, 9, 11, 35, 16, 33, 5, 1, 2),
    (2, 8, 9, 20, 24, 9, 3, 2, 1),
    (1, 6, 7, 16, 40, 12, 3, 3, 0),
]
SCHEDULES = [("fair", 0), ("random", 1), ("greedy", 1), ("greedy", 2)]


@pytest.fixture
def emulated():
    with pyi.using(backend="emulated"):
        yield


def integers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def operands(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    n, h, w, c, cr, k, r, *_ = shape
    return (
        integers(1, n, h, w, c), integers(2, cr, 1, 1, c), integers(3, cr),
        integers(4, k, r, r, cr), integers(5, k),
    )  # fmt: skip


@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fprop_and_backward(shape: tuple[int, ...], order: str, seed: int) -> None:
    x, wr, br, w, b = operands(shape)
    stride, padding = shape[7:]
    where = {"stride": (stride, stride), "padding": (padding, padding)}
    y_expected, r_expected = reference.reduce_conv_fprop(x, wr, br, w, b, **where)
    gy = integers(6, *y_expected.shape)
    expected = reference.reduce_conv_backward(gy, x, wr, w, r_expected, y_expected, **where)
    assert np.count_nonzero(y_expected) > 0 or x.size == 1
    with pyi.using(backend="emulated"), emulator.using(order=order, seed=seed):
        y = pyi.reduce_conv2d(x, wr, br, w, b, stride=stride, padding=padding)
        np.testing.assert_array_equal(y, y_expected)
        got = [np.full(a.shape, np.nan, np.float32) for a in expected]
        launch(
            "reduce_conv",
            "backward",
            spec_of(shape),
            gy,
            x,
            wr,
            w,
            r_expected,
            y_expected,
            *got,
            False,
        )
    for name, a, wanted in zip(("gx", "gwr", "gbr", "gw", "gb"), got, expected, strict=True):
        np.testing.assert_array_equal(a, wanted, name)


def spec_of(shape: tuple[int, ...]) -> BranchSpec:
    n, h, w, c, cr, k, r, stride, padding = shape
    reduce = ConvSpec(n, h, w, c, cr, 1, 1, relu=True)
    conv = ConvSpec(n, h, w, cr, k, r, r, (stride,) * 2, (padding,) * 2, relu=True)
    return BranchSpec((reduce, conv))


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(
    ("shape", "beside"),
    [(SHAPES[1], 5), ((1, 6, 7, 20, 24, 36, 3, 1, 1), 8), ((1, 5, 4, 36, 68, 20, 3, 1, 1), 8)],
    ids=["values", "quads, narrow", "quads, wide"],
)
def test_channel_slices_and_accumulation(shape: tuple[int, ...], beside: int) -> None:
    """Operands with row and pixel strides of their own, NaN beside them; gx is added to."""
    x, wr, br, w, b = operands(shape)
    n, h, wide, c, cr, k, *_ = shape
    wide_x = integers(7, n, h, wide + 2, c + beside)
    wide_x[:, :, 1:-1, 2 : 2 + c] = x
    y = np.full((n, h, wide, k + 4 + beside), 7, np.float32)
    r = np.zeros((n, h, wide, cr + beside), np.float32)[..., :cr]
    spec = spec_of(shape)
    launch(
        "reduce_conv",
        "fprop",
        spec,
        wide_x[:, :, 1:-1, 2 : 2 + c],
        wr,
        br,
        w,
        b,
        y[..., 4 : 4 + k],
        r,
    )
    y_expected, r_expected = reference.reduce_conv_fprop(
        x, wr, br, w, b, stride=(1, 1), padding=(1, 1)
    )
    np.testing.assert_array_equal(y[..., 4 : 4 + k], y_expected)
    np.testing.assert_array_equal(r, r_expected)
    assert (y[..., :4] == 7).all() and (y[..., 4 + k :] == 7).all()

    gy, before = integers(8, n, h, wide, k + beside)[..., :k], integers(9, *x.shape)
    gx = before.copy()
    none = (None,) * 4
    launch(
        "reduce_conv",
        "backward",
        spec,
        gy,
        x,
        wr,
        w,
        r,
        y[..., 4 : 4 + k],
        gx,
        *none,
        True,
    )
    expected, *_ = reference.reduce_conv_backward(
        gy, x, wr, w, r_expected, y_expected, stride=(1, 1), padding=(1, 1)
    )
    np.testing.assert_array_equal(gx, before + expected)


def test_bits_do_not_depend_on_schedule_threads_or_checker() -> None:
    draw = np.random.default_rng(11)
    shape = (2, 9, 10, 21, 18, 35, 3, 1, 1)
    x, wr, br, w, b = (draw.standard_normal(a.shape).astype(np.float32) for a in operands(shape))
    results = []
    for changes in (
        {"checked": False}, {"checked": False, "workers": 2}, {"order": "greedy", "seed": 4},
        {"order": "random", "seed": 5, "checked": False},
    ):  # fmt: skip
        with emulator.using(**changes):
            results.append(pyi.reduce_conv2d(x, wr, br, w, b, padding=1, backend="emulated"))
    for y in results[1:]:
        np.testing.assert_array_equal(y, results[0])
    direct = pyi.reduce_conv2d(x, wr, br, w, b, padding=1, backend="reference")
    np.testing.assert_allclose(results[0], direct, rtol=1e-4, atol=1e-4)


def test_an_empty_batch_launches_nothing() -> None:
    x, wr, br, w, b = operands((0, 7, 5, 3, 5, 7, 3, 1, 1))
    assert pyi.reduce_conv2d(x, wr, br, w, b, padding=1, backend="emulated").shape == (0, 7, 5, 7)


def test_auto_never_chooses_the_emulator() -> None:
    explanation = pyi.explain(spec_of(SHAPES[1]))
    rows = {(way, row): reason for _, way, row, reason in explanation.rows}
    assert rows["fprop", "emulated/direct"] is None and rows["backward", "emulated/direct"] is None
    assert not any(row.startswith("emulated") for row in explanation.chosen.values())
    with pyi.using(backend="emulated"):
        assert set(pyi.explain(spec_of(SHAPES[1])).chosen.values()) == {"emulated/direct"}


def test_the_plan_s_reason_stands_in_explain() -> None:
    wide = spec_of((1, 8, 8, 64, 60000, 64, 3, 1, 1))
    rows = {(way, row): reason for _, way, row, reason in pyi.explain(wide).rows}
    assert "bytes, expected at most" in str(rows["fprop", "emulated/direct"])
    x, wr, br, w, b = operands((1, 1, 1, 1, 60000, 1, 1, 1, 0))
    with pytest.raises(pyi.BackendError, match="smallest tile"):
        pyi.reduce_conv2d(x, wr, br, w, b, backend="emulated")


def test_doctor_and_explain_on_the_command_line() -> None:
    from typer.testing import CliRunner

    from pyinception.cli.main import app

    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(done.output)["backends"]["emulated"] is None
    done = CliRunner().invoke(app, ["explain", "reduce_conv", "3a/3x3", "--backend", "emulated"])
    assert "reduce_conv fprop -> emulated/direct" in done.output


def test_counters_of_a_shipped_kernel() -> None:
    shape = SHAPES[2]
    x, wr, br, w, b = operands(shape)
    with emulator.counting() as rows:
        y = pyi.reduce_conv2d(x, wr, br, w, b, padding=1, backend="emulated")
    by_kind = {kind: [row for row in rows if row.kind == kind] for kind in {r.kind for r in rows}}
    assert set(by_kind) == {
        "executed",
        "global read",
        "global write",
        "shared read",
        "shared write",
    }
    assert all(".cu" in row.where and row.instructions > 0 for row in rows)
    assert all(row.units >= row.ideal > 0 for row in rows if row.kind != "executed")
    # y alone is written; 70 channels go out by four scalar stores a thread
    sectors = sum(row.units for row in by_kind["global write"])
    assert y.nbytes / 32 <= sectors <= 5 * y.nbytes / 32
    # the panels are laid out for stores without bank conflicts
    panels = [row for row in by_kind["shared write"] if "ptx.cuh" in row.where]
    assert panels and all(row.width == 16 for row in panels)
    assert all(row.units == row.ideal == 4 * row.instructions for row in panels)
    lines = emulator.by_line(rows)
    assert 20 < len(lines) < len(rows) and lines[0].units == max(line.units for line in lines)
    assert sum(line.units for line in lines) == sum(row.units for row in rows)
    assert all("inlined" not in line.where for line in lines)
    with emulator.counting() as rows, emulator.using(checked=False):
        pyi.reduce_conv2d(x, wr, br, w, b, padding=1, backend="emulated")
    assert rows == []  # only checked kernels count


def test_settings() -> None:
    assert emulator.Settings() == emulator.Settings("fair", 0, True, 1, True, BACK_EDGES)
    with pytest.raises(ValueError, match="order: expected one of"), emulator.using(order="any"):
        pass
    with pytest.raises(TypeError), emulator.using(shuffle=True):
        pass
    small = operands((1, 3, 3, 3, 3, 3, 3, 1, 1))
    with pytest.raises(emulator.EmulatorFault, match="backward branches"):
        with emulator.using(back_edges=1):
            pyi.reduce_conv2d(*small, padding=1, backend="emulated")
