"""A network's first convolution on tensor cores: three channels are padded to four.

Four channels of fp32 are one unit. In 16 bits a unit is eight: two neighbouring pixels of four are
taken for one of eight, so that a filter of 7x7x3 is one of 7x4x8 (a tap of zeros in front, where
the padding is odd) and a stride of two columns is one of one. Extents and strides of the record say
so. The engine pads in the launch before; a map that comes as NCHW can be padded by the border.
"""

import numpy as np
import pytest
from cuda_run import open_device
from mma_device import Emulated
from mma_runs import STORAGE, Planned, Slice, integers, read_slice, rounded
from pyinception.kernels import cuda_args, reference
from pyinception.kernels import cuda_mma_args as records

import pyinception as pyi
from pyinception import dispatch, emulator, init, ops
from pyinception.layers import Conv2d
from pyinception.module import Sequential
from pyinception.spec import ConvSpec

STORAGES = list(STORAGE)


@pytest.fixture(autouse=True, scope="module")
def emulated() -> None:
    open_device()  # or skip


def by_fours(w: np.ndarray) -> np.ndarray:
    """(K, R, S, 3) -> (K, R, S, 4), the fourth channel zero."""
    return np.pad(w, ((0, 0), (0, 0), (0, 0), (0, 1)))


def by_pairs(w: np.ndarray, padding: int) -> np.ndarray:
    """(K, R, S, 3) -> (K, R, pairs, 8) for pairs of pixels; a window begins at an even pixel."""
    k, r, s, _ = w.shape
    front = padding % 2
    even = np.pad(by_fours(w), ((0, 0), (0, 0), (front, (front + s) % 2), (0, 0)))
    return np.ascontiguousarray(even).reshape(k, r, -1, 8)


# N, H, W, K, R = S, padding
CASES = {
    "conv1": (1, 24, 20, 64, 7, 3),
    "even padding": (2, 13, 14, 24, 5, 2),
    "no padding": (1, 15, 16, 16, 3, 0),
    "odd rows": (1, 11, 12, 40, 3, 1),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CASES)
def test_three_channels(name, storage):
    n, h, width, k, taps, pad = CASES[name]
    kind, rng = STORAGE[storage], np.random.default_rng(len(name))
    x, w, b = (integers(rng, shape, 3) for shape in ((n, h, width, 3), (k, taps, taps, 3), k))
    y = reference.conv2d_fprop(x, w, b, stride=(2, 2), padding=(pad, pad), relu=True)
    p, q = y.shape[1:3]
    device = Emulated(order="greedy", seed=2)

    layout = np.zeros((), cuda_args.LAYOUT_CUDA_ARGS)
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(kind)
    padded = np.full((n, h, width, 4), np.nan, kind)
    layout["x"], layout["y"] = device.buffer("nchw", nchw), device.buffer("x", padded)
    layout["strides"] = (h * width * 4, width * 4, 4)
    layout["N"], layout["H"], layout["W"], layout["C"], layout["padding"] = n, h, width, 3, 1
    layout["storage"] = ("float32", "bfloat16", "float16").index(storage)

    a = np.zeros((), records.CONV_MMA_ARGS)
    unit = 4 if storage == "float32" else 8
    filters = by_fours(w) if unit == 4 else by_pairs(w, pad)
    a["N"], a["H"], a["W"], a["C"], a["K"] = n, h, width * 4 // unit, unit, k
    a["R"], a["S"], a["P"], a["Q"] = *filters.shape[1:3], p, q
    a["stride_h"], a["stride_w"], a["pad_h"] = 2, 2 * 4 // unit, pad
    a["pad_w"] = pad if unit == 4 else (pad + 1) // 2
    a["step_h"] = a["step_w"] = a["relu"] = a["output_count"] = 1
    a["type"], a["shared_limit"], a["multiprocessors"] = records.MMA_TYPES[storage], 227 << 10, 132
    a["x"], a["x_strides"] = layout["y"], (h * width * 4, width * 4, unit)
    a["w"], a["b"] = device.buffer("w", filters.astype(kind)), device.buffer("b", b)
    out = Slice((n, p, q, k), kind, 8, 16)
    a["outputs"][0]["y"] = out.address(device.buffer("y", out.buffer))
    a["outputs"][0]["strides"] = tuple(s // kind.itemsize for s in out.buffer.strides[:3])
    a["outputs"][0]["count"] = k

    for plan, record in (("layout", layout), ("conv_mma", a)):
        planned = Planned(plan, record)
        assert not planned.reason
        for launch in planned.launches:
            device.launch(launch)
    got = read_slice(out, device.read("y"))
    assert (y != 0).mean() > 0.2
    np.testing.assert_array_equal(got, rounded(y, kind))


# ---- the engine ----------------------------------------------------------------------------------
RUNG = {"float32": "tf32", "bfloat16": "mma", "float16": "mma"}

# N, H, W, C, K, R, S, stride, padding
PROBLEMS = {
    "conv1": (1, 24, 20, 3, 64, 7, 7, (2, 2), (3, 3)),
    "odd columns, odd padding": (2, 9, 13, 3, 16, 3, 3, (2, 2), (1, 1)),
    "odd columns, even padding, even taps": (1, 9, 11, 3, 8, 3, 4, (1, 2), (1, 2)),
    "even columns, odd padding, even taps": (1, 8, 12, 2, 24, 2, 4, (2, 4), (0, 1)),
    "stride 1: no pairs": (2, 7, 9, 3, 40, 3, 3, (1, 1), (1, 1)),
    "one channel": (1, 10, 10, 1, 16, 5, 5, (2, 2), (2, 2)),
    "five channels": (1, 8, 9, 5, 16, 3, 3, (2, 2), (1, 1)),
}


def problem(name: str, storage: str):
    *extents, stride, padding = PROBLEMS[name]
    n, h, width, c, k, r, s = extents
    rng, kind = np.random.default_rng(len(name)), STORAGE[storage]
    wide = np.full((n, h, width, c + 3), np.nan, kind)  # what lies behind a slice may be NaN
    x, w, b = wide[..., 1 : 1 + c], integers(rng, (k, r, s, c), 3), integers(rng, k, 3)
    x[...] = integers(rng, (n, h, width, c), 3)
    spec = ConvSpec(n, h, width, c, k, r, s, stride, padding, True, True, "conv2d")
    return spec, x, w.astype(kind), b


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_engine_takes_it_to_tensor_cores(name, storage):
    spec, x, w, b = problem(name, storage)
    if spec.C >= 16 // x.itemsize:
        pytest.skip("five channels of fp32 are more than a unit")
    wide, kind = [a.astype(np.float32) for a in (x, w)], STORAGE[storage]
    how = {"stride": spec.stride, "padding": spec.padding}
    expected = reference.conv2d_fprop(*wide, b, relu=True, **how)
    with pyi.using(backend="emulated", algorithm=RUNG[storage]), emulator.using(order="greedy"):
        for direction in ("fprop", "wgrad"):
            plan = dispatch.choose("conv", direction, spec, dispatch.target_of(x))
            assert plan.row.name == f"emulated/{RUNG[storage]}"
        y = ops.conv.conv_fprop(spec, x, w, b)
        np.testing.assert_array_equal(y.astype(np.float32), rounded(expected, kind))
        assert (expected != 0).mean() > 0.2
        gy = integers(np.random.default_rng(1), y.shape, 3)
        gw, gb = ops.conv.conv_wgrad(spec, x, gy.astype(kind), y)
    mask = y.astype(np.float32)
    wanted = reference.conv2d_wgrad(wide[0], gy, spec.w_shape, y=mask, **how)
    np.testing.assert_array_equal(gw, wanted[0])
    np.testing.assert_array_equal(gb, wanted[1])
    assert wanted[0].any()


def test_a_session_runs_it():
    net = init.initialise(Sequential(Conv2d(3, 16, 7, 2, 3, relu=True)), 1).store_as("bfloat16")
    x = integers(np.random.default_rng(0), (2, 14, 15, 3), 2).astype(STORAGE["bfloat16"])
    session = pyi.Session(net, x.shape, backend="emulated")
    entries = [launch[1] for launch in session._launches.launches]
    assert entries[0] == "pad_maps" and entries[1].startswith("conv_mma_bf16")
    assert len(entries) == 2
    with pyi.using(backend="emulated"):
        np.testing.assert_array_equal(session(x), net(x).data)


PAD = {
    "type": ({"type": 3}, "type is 3, expected 0 (fp32 as tf32), 1 (bf16) or 2 (fp16)"),
    "crop": ({"crop": 1}, "type is 1, expected 0 (fp32): gradients are cropped"),
    "count": ({"map_count": 3}, "map_count is 3, expected 1..2"),
    "channels": ({"C": 9}, "map 0: channels is 8 for C = 9, expected 4 or 8 of at least C"),
    "units": (
        {"channels": 4, "columns": 9},
        "map 0: columns x channels is 9 x 4, expected a multiple of 8",
    ),
    "columns": (
        {"front": 1, "columns": 7},
        "map 0: columns is 7 behind 1 of front, expected at least 8",
    ),
    "null": ({"narrow": 0}, "map 0: narrow is null"),
    "off": ({"wide": 72}, "map 0: wide begins 8 bytes past a multiple of 16, expected 0"),
    "negative": ({"strides": (-1, 21, 3)}, "map 0: narrow has a negative stride"),
}


@pytest.mark.parametrize("name", PAD)
def test_padding_declines(name):
    a = np.zeros((), records.PAD_MAPS_MMA_ARGS)
    given = {"type": 1, "map_count": 1, "narrow": 2, "wide": 64, "N": 1, "H": 5, "W": 7, "C": 3,
             "columns": 8, "channels": 8, "strides": (105, 21, 3)}  # fmt: skip
    fields, sentence = PAD[name]
    for plain in ({}, fields):
        for key, value in (given | plain).items():
            (a if key in a.dtype.names else a["maps"][0])[key] = value
        assert Planned("pad_maps_mma", a).reason == (sentence if plain else "")
