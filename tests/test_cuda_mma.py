"""What can be held of the tensor-core kernels without running them.

Records equal in C++ and NumPy; the plans of all modules, and what they decline.
"""

import re
import shutil
import subprocess

import numpy as np
import pytest
from mma_problems import Conv, Inception, ReduceConv
from mma_runs import (
    CXX,
    KB,
    MODULES,
    ROOT,
    STORAGE,
    Planned,
    made_up_addresses,
)
from pyinception.kernels import cuda_mma_args as records

HEADER = ROOT / "kernels" / "cuda_mma_args.h"
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
needs_cxx = pytest.mark.skipif(CXX is None, reason="no C++ compiler found")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc found")

RECORDS = {
    "MmaOutput": records.MMA_OUTPUT,
    "ReduceConvMmaArgs": records.REDUCE_CONV_MMA_ARGS,
    "ConvMmaArgs": records.CONV_MMA_ARGS,
    "ConvLrnPoolMmaArgs": records.CONV_LRN_POOL_MMA_ARGS,
    "InceptionMmaArgs": records.INCEPTION_MMA_ARGS,
    "ConvWgradMmaArgs": records.CONV_WGRAD_MMA_ARGS,
    "MaskMmaArgs": records.MASK_MMA_ARGS,
    "FlipFilterMmaArgs": records.FLIP_FILTER_MMA_ARGS,
    "FlipFiltersMmaArgs": records.FLIP_FILTERS_MMA_ARGS,
    "PadMapMma": records.PAD_MAP_MMA,
    "PadMapsMmaArgs": records.PAD_MAPS_MMA_ARGS,
}


# ---- records -----------------------------------------------------------------------------------
@needs_cxx
@pytest.mark.parametrize("name", RECORDS)
def test_offsets_equal(name, tmp_path):
    dtype = RECORDS[name]
    prints = "".join(
        f'  std::printf("{f} %zu %zu\\n", offsetof({name}, {f}), sizeof({name}::{f}));\n'
        for f in dtype.names
    )
    (tmp_path / "offsets.cpp").write_text(
        f'#include <cstddef>\n#include <cstdio>\n#include "{HEADER}"\n'
        f'int main() {{\n{prints}  std::printf("size %zu 0\\n", sizeof({name}));\n}}\n'
    )
    command = [CXX, "-std=c++17", str(tmp_path / "offsets.cpp"), "-o", str(tmp_path / "offsets")]
    subprocess.run(command, check=True)
    lines = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True)
    expected = [f"{f} {dtype.fields[f][1]} {dtype.fields[f][0].itemsize}" for f in dtype.names]
    assert lines.stdout.split("\n")[:-1] == [*expected, f"size {dtype.itemsize} 0"]


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_is_mirrored(name):
    text = re.sub(r"//[^\n]*", "", HEADER.read_text())
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL).group(1)
    declared = [
        re.search(r"(\w+)(?:\[\d+\])?\s*$", part).group(1)
        for statement in body.split(";")
        if statement.strip()
        for part in statement.split(",")
    ]
    assert declared == list(RECORDS[name].names)


# ---- plans -------------------------------------------------------------------------------------
def reduced_bytes(record) -> int:
    return 16 * int(record["reduced_units"]) + 4 * (-(-int(record["conv_units"]) // 4) * 4)


RING = {"wide": 3 * 64 * 352, "tall": 3 * 64 * 288, "flat": 3 * 64 * 192}


@needs_cxx
@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("limit", (99 * KB, 163 * KB, 227 * KB))
@pytest.mark.parametrize("name", MODULES)
def test_plans_of_the_modules(name, limit, storage):
    """Every module's branches fit every device from sm_80 at every batch; all outputs are made."""
    extent, c, *branches = MODULES[name]
    for (cr, k), filter_ in zip(branches, (3, 5), strict=True):
        grids = []
        for n in (1, 32, 256):
            case = ReduceConv((1, extent, extent, c, cr, k, filter_, filter_), storage=storage,
                              padding=(filter_ // 2,) * 2, limit=limit)  # fmt: skip
            asked = case.place(made_up_addresses())
            asked["N"] = n
            planned = Planned("reduce_conv_mma", asked)
            assert planned.reason == ""
            (launch,), record = planned.launches, planned.record
            tile = launch.entry.rsplit("_", 1)[1]
            assert launch.shared_bytes == RING[tile] + reduced_bytes(record) <= limit
            bands = -(-extent // int(record["tile_p"]))
            slices = -(-k // int(record["slice"]))
            groups = -(-n // int(record["tile_images"]))
            assert launch.grid == (groups * bands * slices, 1, 1)
            assert record["bands"]["value"] == bands and record["slices"]["value"] == slices
            grids.append(launch.grid[0])
        assert grids[0] >= 2 and grids[2] >= 128, "a device has work at both ends"
        if extent < 28 and limit == 227 * KB and storage != "float32":
            assert bands == 1, "whole maps at batch 256"


@needs_cxx
@pytest.mark.parametrize("limit", (99 * KB, 163 * KB, 227 * KB))
def test_plans_of_whole_modules(limit):
    """One launch whose blocks are those of the four roles, in order, at every batch."""
    for extent, c, (cr3, k3), (cr5, k5) in MODULES.values():
        asked = Inception(1, extent, c, (64, cr3, k3, cr5, k5, 32), limit=limit).place(
            made_up_addresses()
        )
        for n in (1, 32, 256):
            for role in (*asked["branches"], asked["ones"], asked["projection"]):
                role["N"] = n
            planned = Planned("inception_mma", asked)
            assert planned.reason == ""
            (launch,), record = planned.launches, planned.record
            ends = [*record["first"].tolist(), launch.grid[0]]
            for branch, begin, end in zip(record["branches"], (0, ends[0]), ends[:2], strict=True):
                groups = -(-n // int(branch["tile_images"]))
                tiles = groups * int(branch["bands"]["value"])
                assert end - begin == tiles * branch["slices"]["value"] > 0
            for role, begin, end in zip((record["ones"], record["projection"]), ends[1:], ends[2:],
                                        strict=False):  # fmt: skip
                tiles = -(-n * extent * extent // 256) * int(role["column_tiles"]["value"])
                assert end - begin == tiles
            assert launch.shared_bytes <= limit and launch.block == 256
    asked["projection"]["pad_h"] = 1
    reason = Planned("inception_mma", asked).reason
    assert reason == "projection: expected a 1x1 without stride and padding"
    asked["branches"][1]["type"] = 2
    assert Planned("inception_mma", asked).reason == (
        "5x5 branch: type and N are 2 and 256, expected 1 and 256 as in the 3x3 branch"
    )


@needs_cxx
def test_neighbouring_outputs_read_different_banks():
    """Eight outputs in a row, across the end of a row or an image, at any tap: eight residues."""
    for extent, filter_, cr in ((14, 3, 96), (14, 5, 24), (7, 3, 192), (7, 5, 32), (13, 3, 112)):
        pad = filter_ // 2
        case = ReduceConv((4, extent, extent, 32, cr, 32, filter_, filter_), padding=(pad, pad),
                          multiprocessors=1)  # fmt: skip
        planned = Planned("reduce_conv_mma", case.place(made_up_addresses()))
        wanted = "pixel row image origin reduced".split()
        a = {f"{name}_units": int(planned.record[f"{name}_units"]) for name in wanted}
        a |= {name: int(planned.record[name]) for name in ("tile_images", "tile_p", "Q")}
        m = np.arange(a["tile_images"] * a["tile_p"] * a["Q"])
        image, rest = np.divmod(m, a["tile_p"] * a["Q"])
        p, q = np.divmod(rest, a["Q"])
        units = image * a["image_units"] + p * a["row_units"] + q * a["pixel_units"]
        windows = np.lib.stride_tricks.sliding_window_view(units % 8, 8)
        assert all(len(set(window)) == 8 for window in windows)
        first = a["origin_units"] - pad * a["pixel_units"]
        last = units.max() + (filter_ - 1) * (a["row_units"] + a["pixel_units"]) + cr // 8
        assert first >= 0 and first + last <= a["reduced_units"]


FUSED = (2, 9, 8, 24, 16, 40, 3, 3)
DECLINED = {
    "C is 20, expected a multiple of 8 (16 bytes are copied at a time)": {"C": 20},
    "Cr is 12, expected a multiple of 8 (16 bytes are copied at a time)": {"Cr": 12},
    "K is 33, expected a multiple of 8 (16 bytes are copied at a time)": {"K": 33},
    "H is 0, expected at least 1": {"H": 0},
    "N is -1, expected at least 0": {"N": -1},
    "R is 65, expected 1..64": {"R": 65},
    "pad_w is -1, expected 0..63": {"pad_w": -1},
    "the filter is 13 x 3, expected at most the padded map, 11 x 10": {"R": 13},
    "x begins 2 bytes past a multiple of 16, expected 0": {"x": (1 << 32) + 2},
    "y begins 8 bytes past a multiple of 16, expected 0": {"y": (1 << 32) + 8},
    "x has a pixel stride of 28 elements, expected a multiple of 8": {"x_strides": (2016, 224, 28)},
    "y has an image stride of -8 elements, expected a multiple of 8": {"y_strides": (-8, 320, 40)},
    "w is null": {"w": 0},
    "x is null": {"x": 0},
    "wr begins 4 bytes past a multiple of 16, expected 0": {"wr": (1 << 32) + 4},
    "type is 4, expected 0 (fp32 as tf32), 1 (bf16), 2 (fp16) or 3 (fp16 on sm_75)": {"type": 4},
}  # fmt: skip


@needs_cxx
@pytest.mark.parametrize("reason", DECLINED)
def test_plans_decline_with_numbers(reason):
    asked = ReduceConv(FUSED, padding=(1, 1)).place(made_up_addresses())
    for name, value in DECLINED[reason].items():
        asked[name] = value
    planned = Planned("reduce_conv_mma", asked)
    assert (planned.reason, planned.launches) == (reason, [])


@needs_cxx
def test_plans_decline_what_does_not_fit():
    asked = ReduceConv(FUSED, padding=(1, 1)).place(made_up_addresses())
    asked["shared_limit"] = 16 * KB
    needs = int(re.fullmatch(
        r"a row of the reduced map needs (\d+) bytes of shared memory, expected at most 16384",
        Planned("reduce_conv_mma", asked).reason)[1])  # fmt: skip
    asked["shared_limit"] = needs
    assert Planned("reduce_conv_mma", asked).launches[0].shared_bytes == needs
    huge = asked.copy()
    huge["K"] = huge["R"] = huge["S"] = 8
    huge["Cr"], huge["W"], huge["x_strides"] = 2**21, 16384, (0, 0, 0)
    assert re.match(
        r"a row of the reduced map needs \d{11} ", Planned("reduce_conv_mma", huge).reason
    )
    asked["x_strides"] = (2**31 - 8, 192, 24)
    assert "x spans 2147485368 elements" in Planned("reduce_conv_mma", asked).reason
    asked["N"] = 0  # spans nothing, launches nothing
    planned = Planned("reduce_conv_mma", asked)
    assert (planned.reason, planned.launches) == ("", [])


@needs_cxx
@pytest.mark.parametrize("limit", (16, 32, 48, 64))
@pytest.mark.parametrize("storage", STORAGE)
def test_small_shared_memory_is_declined_or_suffices(storage, limit):
    """No tile's ring may be larger than what a block has, and none has to fit."""
    case = Conv((2, 9, 8, 24, 40, 3, 3), padding=(1, 1), outputs=(16, 24), storage=storage)
    asked, _ = case.forward(made_up_addresses())
    asked["shared_limit"] = limit * KB
    planned = Planned("conv_mma", asked)
    if planned.launches:
        assert planned.launches[0].shared_bytes <= limit * KB
    else:
        assert re.search(r"a block needs \d+ bytes of shared memory", planned.reason)


@needs_cxx
def test_convolutions_decline_with_numbers():
    case = Conv((2, 9, 8, 24, 40, 3, 3), padding=(1, 1), outputs=(16, 24))
    forward, _ = case.forward(made_up_addresses())

    def reason(**fields) -> str:
        asked = forward.copy()
        for name, value in fields.items():
            asked[name] = value
        return Planned("conv_mma", asked).reason

    outputs = forward["outputs"].copy()
    outputs["first"][1] = 24
    assert reason(outputs=outputs) == "output 1 takes 24 columns from 24, expected some from 16"
    assert reason(output_count=1) == "the outputs take 16 columns, expected 40"
    assert reason(output_count=5) == "output_count is 5, expected 1..4"
    assert reason(accumulate=1) == "output_count is 2, expected 1 with a mask or accumulate"
    assert reason(C=12) == "C is 12, expected a multiple of 8 (16 bytes are copied at a time)"
    assert reason(P=16000, stride_h=64, Q=1) == (
        "the windows reach pixel 1024003, expected at most 32767"
    )
    assert reason() == ""
    wgrad = case.wgrad({"gm": 1 << 40}, made_up_addresses())
    wgrad["N"] = 256
    assert re.fullmatch(
        r"the workspace has 0 bytes, expected \d+ that begin on a multiple of 16",
        Planned("conv_wgrad_mma", wgrad).reason,
    )
    wgrad["P"] = 10
    assert Planned("conv_wgrad_mma", wgrad).reason == "P x Q is 10 x 8, expected at most 9 x 8"


@needs_cxx
def test_chunks_follow_shape_and_batch():
    """Partial sums of the modules' filters stay far below the maps they are made from."""
    for extent, _, *branches in MODULES.values():
        for (cr, k), filter_ in zip(branches, (3, 5), strict=True):
            pad = (filter_ // 2,) * 2
            case = Conv((1, extent, extent, cr, k, filter_, filter_), padding=pad)
            asked = case.wgrad({"gm": 1 << 40}, made_up_addresses())
            asked["N"] = 256
            needed = Planned("conv_wgrad_mma_size", asked).workspace_bytes
            assert needed < 64 << 20
            asked["workspace"], asked["workspace_bytes"] = 1 << 41, needed
            record = Planned("conv_wgrad_mma", asked).record
            assert 1 <= record["chunks"] <= 64 and record["chunk_pixels"] % 32 == 0
            assert record["chunks"] * record["chunk_pixels"] >= 256 * extent**2
