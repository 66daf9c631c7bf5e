"""The tensor-core kernels of sm_75: compiled for it alone, planned for 64 KB, equal on integers.

fp16 by eight k an instruction, copies through registers; the code is that of the kernels from
sm_80 on, and so are the problems.
"""

import re
from functools import cache

import numpy as np
import pytest
from cuda_registers import REGISTERS
from cuda_run import CUDA
from mma_device import Emulated, devices, emulator, why_not
from mma_problems import Conv, Inception, ReduceConv
from mma_runs import KB, MODULES, Planned, made_up_addresses, read_slice
from pyinception.kernels import cuda_mma_args as records
from test_cuda_mma_emulated import AWKWARD

REASON = why_not()
needs_emulator = pytest.mark.skipif(REASON is not None, reason=str(REASON))

SOURCE = CUDA / "mma_sm75.cu"
ENTRIES = REGISTERS["mma_sm75"]
SM75 = 3  # kMmaFp16Sm75
LIMIT = 64 * KB
RING = {"wide": 2 * 64 * 352, "tall": 2 * 64 * 288, "flat": 2 * 64 * 192}


@cache
def module_of():
    return emulator.module_of(SOURCE, arch="75")


@cache
def kernel_of(entry: str):
    translation, path = emulator.build(module_of(), entry, checked=True)
    return devices.Kernel.load(path, entry, translation.sites)


class Sm75(Emulated):
    """Launches of PTX for sm_75."""

    def launch(self, launch) -> None:
        assert launch.source == SOURCE and launch.shared_bytes <= LIMIT
        params = np.frombuffer(launch.params, np.uint8)
        self.kernel = kernel_of(launch.entry)
        self.device.launch(self.kernel, launch.grid, (launch.block,), params, launch.shared_bytes)


def hold(got: np.ndarray, expected: np.ndarray) -> None:
    assert (expected != 0).mean() > 0.1, "mostly zeros: this proves little"
    np.testing.assert_array_equal(got, expected)


def hold_reduce_conv(extents, *, multiprocessors: int = 72, **how) -> str:
    """The problem is equal to the reference; returns the tile that the plan chose."""
    order = {name: how.pop(name) for name in ("order", "seed", "count") if name in how}
    case = ReduceConv(extents, storage="float16", limit=LIMIT, multiprocessors=multiprocessors,
                      frame=(8, 16), save_r=True, **how)  # fmt: skip
    device = Sm75(**order)
    asked = case.place(device.buffer)
    asked["type"] = SM75
    planned = Planned("reduce_conv_mma", asked)
    assert planned.reason == ""
    (launch,) = planned.launches
    device.launch(launch)
    y, r = case.expected()
    hold(read_slice(case.maps["y"], device.read("y")), y)
    hold(read_slice(case.maps["r"], device.read("r")), r)
    return launch.entry.rsplit("_", 1)[1]


# ---- execution -----------------------------------------------------------------------------------
@needs_emulator
@pytest.mark.parametrize("name", AWKWARD)
def test_reduce_conv(name: str) -> None:
    extents, stride, padding = AWKWARD[name]
    hold_reduce_conv(extents, stride=stride, padding=padding)


@needs_emulator
@pytest.mark.parametrize(
    ("extents", "multiprocessors", "tile"),
    [
        ((1, 14, 14, 96, 48, 128, 3, 3), 1, "wide"),
        ((1, 28, 28, 192, 16, 32, 5, 5), 1, "tall"),  # 3a
        ((1, 7, 7, 832, 48, 128, 5, 5), 72, "flat"),  # 5b
    ],
)
def test_whole_maps_in_every_tile(extents, multiprocessors, tile) -> None:
    pad = (extents[-1] // 2,) * 2
    assert hold_reduce_conv(extents, padding=pad, multiprocessors=multiprocessors) == tile


@needs_emulator
@pytest.mark.parametrize("seed", range(4))
def test_the_ring_of_two_in_any_order_of_threads(seed: int) -> None:
    """Many stages: a slot is written while other warps may still multiply the one before."""
    hold_reduce_conv((1, 7, 6, 160, 40, 48, 3, 3), padding=(1, 1), order="greedy", seed=seed)


CONVS = {
    "stacked 1x1s": ((1, 14, 14, 64, 152, 1, 1), {"outputs": (64, 24, 64)}),
    "3x3, few pixels": ((1, 5, 6, 40, 24, 3, 3), {"padding": (1, 1)}),
    "stride 2, no relu": ((2, 9, 8, 24, 16, 3, 3), {"stride": (2, 2), "relu": False}),
    "many pixels": ((1, 28, 28, 16, 32, 5, 5), {"padding": (2, 2), "multiprocessors": 1}),
    "few channels": ((1, 16, 16, 16, 8, 1, 1), {"multiprocessors": 1}),
    "whole maps": ((2, 14, 14, 32, 128, 3, 3), {"padding": (1, 1), "multiprocessors": 1}),
}


@needs_emulator
@pytest.mark.parametrize("name", CONVS)
def test_conv(name: str) -> None:
    extents, more = CONVS[name]
    how = {"storage": "float16", "limit": LIMIT, "frame": (8, 8), "multiprocessors": 72} | more
    case, device = Conv(extents, **how), Sm75(order="greedy", seed=1)
    asked, pieces = case.forward(device.buffer)
    asked["type"] = SM75
    planned = Planned("conv_mma", asked)
    assert planned.reason == ""
    device.launch(planned.launches[0])
    parts = [read_slice(piece, device.read(f"y{i}")) for i, piece in enumerate(pieces)]
    hold(np.concatenate(parts, axis=3), case.expected_forward())


@needs_emulator
def test_wavefronts_of_shared_memory_are_the_least() -> None:
    """ldmatrix and the stores of copies meet no bank twice: the layout is that of sm_80."""
    case = ReduceConv((1, 14, 14, 64, 32, 64, 3, 3), padding=(1, 1), storage="float16",
                      limit=LIMIT, multiprocessors=1)  # fmt: skip
    device = Sm75(count=True)
    asked = case.place(device.buffer)
    asked["type"] = SM75
    device.launch(Planned("reduce_conv_mma", asked).launches[0])
    rows = [row for row in device.counters() if row.width == 16]
    reads = [row for row in rows if row.kind == "shared matrix"]
    writes = [row for row in rows if row.kind == "shared write"]
    assert max(row.worst for row in reads) == 4  # four matrices: rows of one are never in one bank
    assert writes and sum(row.units for row in writes) == sum(row.ideal for row in writes)


# ---- plans ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MODULES)
def test_plans_of_the_modules_fit_64_kb(name: str) -> None:
    extent, c, *branches = MODULES[name]
    for (cr, k), filter_ in zip(branches, (3, 5), strict=True):
        for n in (1, 32, 256):
            case = ReduceConv((1, extent, extent, c, cr, k, filter_, filter_), storage="float16",
                              padding=(filter_ // 2,) * 2, limit=LIMIT)  # fmt: skip
            asked = case.place(made_up_addresses())
            asked["N"], asked["type"] = n, SM75
            planned = Planned("reduce_conv_mma", asked)
            assert planned.reason == ""
            (launch,) = planned.launches
            assert launch.entry in ENTRIES and launch.source == SOURCE
            ring = RING[launch.entry.rsplit("_", 1)[1]]
            assert ring < launch.shared_bytes <= LIMIT


def test_other_plans_say_that_they_have_no_such_kernels() -> None:
    words = r"type is 3, expected 0 \(fp32 as tf32\), 1 \(bf16\) or 2 \(fp16\)"
    module = Inception(1, 7, 32, (8, 8, 8, 8, 8, 8)).place(made_up_addresses())
    for role in (*module["branches"], module["ones"], module["projection"]):
        role["type"] = SM75
    asked = {"inception_mma": module}
    for name in ("CONV_WGRAD", "MASK", "FLIP_FILTERS", "PAD_MAPS"):
        record = np.ones((), getattr(records, f"{name}_MMA_ARGS"))
        (record["filters"] if name == "FLIP_FILTERS" else record)["type"] = SM75
        asked[f"{name.lower()}_mma"] = record
    for name, record in asked.items():
        assert re.search(words, Planned(name, record).reason), name
    case = Conv((1, 7, 7, 16, 16, 1, 1), storage="float16")
    record, _ = case.forward(made_up_addresses())
    record["type"] = 4
    assert Planned("conv_mma", record).reason.endswith("2 (fp16) or 3 (fp16 on sm_75)")


def test_every_tile_is_run() -> None:
    """The plans of the convolutions above choose each tile; `reduce_conv` asserts its own."""
    tiles = set()
    for extents, more in CONVS.values():
        how = {"storage": "float16", "limit": LIMIT, "multiprocessors": 72} | more
        asked, _ = Conv(extents, **how).forward(lambda name, array: 1 << 20)
        asked["type"] = SM75
        [launch] = Planned("conv_mma", asked).launches
        tiles.add(launch.entry)
    assert tiles == {entry for entry in ENTRIES if entry.startswith("conv_")}
