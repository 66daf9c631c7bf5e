"""Every tensor-core tile in every storage, executed: one source, but an entry of its own each.

The plan picks the tile, so each case is a shape for which it picks this one; on integers the bits
are the reference's. An entry that is added to the table must get a case.
"""

import numpy as np
import pytest
from cuda_registers import REGISTERS
from mma_device import Emulated, why_not
from mma_problems import Conv, ReduceConv
from mma_runs import CXX, Planned, read_slice

REASON = why_not() or ("no C++ compiler found" if CXX is None else None)
STORAGES = {"tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# kernel and tile: extents, padding, of an image or two that one multiprocessor computes
Shapes = dict[str, tuple[tuple[int, ...], int]]
REDUCE_CONVS: Shapes = {  # (N, H, W, C, Cr, K, R, S)
    "wide": ((1, 14, 14, 32, 32, 128, 3, 3), 1),
    "tall": ((1, 14, 14, 32, 16, 32, 5, 5), 2),
    "flat": ((1, 7, 7, 32, 16, 40, 3, 3), 1),
}
CONVS: Shapes = {  # (N, H, W, C, K, R, S)
    "wide": ((1, 14, 14, 32, 128, 3, 3), 1),
    "tall": ((1, 16, 16, 32, 24, 1, 1), 0),
    "flat": ((1, 7, 7, 32, 64, 3, 3), 1),
}
SHAPES: dict[str, Shapes] = {"reduce_conv_mma": REDUCE_CONVS, "conv_mma": CONVS}
ENTRIES = [
    entry
    for unit in SHAPES
    for entry in REGISTERS[unit]
    if entry.rpartition("_")[2] in ("wide", "tall", "flat")
]


def test_every_tile_is_an_entry_of_the_table():
    made = {f"{k}_{s}_{tile}" for k, shapes in SHAPES.items() for s in STORAGES for tile in shapes}
    assert made == set(ENTRIES)


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.parametrize("entry", ENTRIES)
def test_tile(entry):
    kernel, storage, tile = entry.rsplit("_", 2)
    extents, pad = SHAPES[kernel][tile]
    make = ReduceConv if kernel == "reduce_conv_mma" else Conv
    how = {"storage": STORAGES[storage], "frame": (8, 16), "multiprocessors": 1}
    case = make(extents, padding=(pad, pad), **how)
    device = Emulated(order="greedy", seed=1)
    if isinstance(case, ReduceConv):
        asked, out = case.place(device.buffer), case.maps["y"]
        expected, name = case.expected()[0], "y"
    else:
        asked, [out] = case.forward(device.buffer)
        expected, name = case.expected_forward(), "y0"
    planned = Planned(kernel, asked)
    assert [one.entry for one in planned.launches] == [entry]
    device.launch(planned.launches[0])
    assert out is not None
    got = read_slice(out, device.read(name))
    assert (expected != 0).mean() > 0.1
    np.testing.assert_array_equal(got, expected)
