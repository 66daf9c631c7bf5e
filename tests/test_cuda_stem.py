"""A network's first convolution on tensor cores: the border pads three channels to four.

Four channels of fp32 are one unit. In 16 bits a unit is eight: two neighbouring pixels of four are
taken for one of eight, so that a filter of 7x7x3 is one of 7x4x8 (a tap of zeros in front, where
the padding is odd) and a stride of two columns is one of one. Nothing is copied for it: extents and
strides of the record say so.
"""

import numpy as np
import pytest
from cuda_run import open_device
from mma_device import Emulated
from mma_runs import STORAGE, Planned, Slice, integers, read_slice, rounded
from pyinception.kernels import cuda_args, reference
from pyinception.kernels import cuda_mma_args as records

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
